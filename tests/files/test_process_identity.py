"""Whether the process that wrote a temporary name still runs."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastvlm_mlx.files import process_identity
from fastvlm_mlx.files.process_identity import (
    UNKNOWN,
    host_id,
    is_running,
    own_start_id,
    start_id,
)


def test_ids_are_of_a_fixed_length():
    assert UNKNOWN == "00000000"
    assert len(host_id()) == 6 and host_id().isalnum()
    started = start_id(os.getpid())
    assert len(started) == 8 and started.isalnum()
    assert started == own_start_id(os.getpid()) == start_id(os.getpid())


def test_a_host_is_told_by_its_name(monkeypatch):
    mine = host_id()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    other = host_id.__wrapped__()
    assert other != mine and len(other) == 6
    monkeypatch.setattr(os, "readlink", lambda path: f"of {path}")
    container = host_id.__wrapped__()
    assert container not in (mine, other)

    def none(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", none)
    assert host_id.__wrapped__() not in (mine, other, container)


def test_two_processes_started_at_different_times():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = start_id(child.pid)
        assert started not in (UNKNOWN, start_id(os.getpid()))
        assert is_running(child.pid, started) and is_running(child.pid, UNKNOWN)
        assert not is_running(child.pid, "abcdef01")
    finally:
        child.communicate(b"\n")
    assert not is_running(child.pid, started)
    assert not is_running(child.pid, UNKNOWN)


def test_ids_that_no_process_has():
    assert not is_running(10**30, UNKNOWN)
    assert start_id(2**22 + 1) == UNKNOWN


def test_somebody_elses_process_runs(monkeypatch):
    def refused(pid: int, signal: int):
        assert signal == 0  # it asks, and ends nothing
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)
    assert is_running(os.getpid(), start_id(os.getpid()))
    assert not is_running(os.getpid(), "abcdef01")


def test_where_there_is_no_proc(monkeypatch):
    def missing(path: Path, **_):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    said = SimpleNamespace(stdout=" Thu Nov 26 05:00:00 2026\n")
    asked = []

    def ps(command: list[str], **options: object) -> SimpleNamespace:
        asked.append(command)
        assert options["check"] and options["text"] and options["capture_output"]
        return said

    monkeypatch.setattr(process_identity.subprocess, "run", ps)
    first = start_id(77)
    assert asked == [["ps", "-o", "lstart=", "-p", "77"]]
    assert len(first) == 8 and first != UNKNOWN
    said.stdout = "Thu Nov 26 05:00:00 2026"
    assert start_id(77) == first
    said.stdout = "Thu Nov 26 05:00:01 2026"
    assert start_id(77) not in (first, UNKNOWN)
    said.stdout = "\n"
    assert start_id(77) == UNKNOWN


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(), ValueError(), subprocess.TimeoutExpired("ps", 5)],
)
def test_where_nothing_tells(monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "1 (a b) S 2")
    monkeypatch.setattr(process_identity.subprocess, "run", fails)
    assert start_id(os.getpid()) == UNKNOWN
    assert is_running(os.getpid(), "abcdef01")  # it may be the one


def test_a_program_whose_name_has_brackets(monkeypatch):
    """The start is the 22nd field of /proc/PID/stat, after the name in brackets."""

    def stat(start: int, name: str = "(x) y") -> str:
        return f"7 ({name}) S " + " ".join(map(str, range(4, 22))) + f" {start} 23 24"

    lines = {"boot": "b00t", "stat": stat(5)}
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, **_: lines["boot" if "boot" in path.name else "stat"],
    )
    first = start_id(7)
    lines["stat"] = stat(5, "other ) name")
    assert start_id(7) == first
    lines["stat"] = stat(6)
    assert start_id(7) != first
    lines |= {"stat": stat(5), "boot": "another"}
    assert start_id(7) not in (first, UNKNOWN)
