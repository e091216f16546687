"""What is a stream and what is a file, and how a stream is written."""

import errno
import io
import os
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_mlx.app.caption import stream
from fastvlm_mlx.app.caption.records import JSONLines
from fastvlm_mlx.errors import OptionError


def test_what_is_a_stream(tmp_path: Path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("x")
    link.symlink_to("/dev/stdout")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, file, tmp_path / "none", tmp_path / "none" / "x"):
        assert not stream.is_stream(path)
    for path in (link, pipe, "/dev/null", "/dev/stderr", "/dev/fd/77"):
        assert stream.is_stream(path)
    with file.open("w") as opened:
        assert stream.is_stream(f"/dev/fd/{opened.fileno()}")


def test_a_folder_is_no_stream_whatever_descriptor_it_is(tmp_path: Path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        if Path(f"/dev/fd/{descriptor}").is_dir():
            assert not stream.is_stream(f"/dev/fd/{descriptor}")
    finally:
        os.close(descriptor)


def test_descriptors_by_their_names(tmp_path: Path):
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        assert stream.descriptor_of(f"/dev/{name}") == number
    for path, number in (
        ("/dev/fd/0", 0),
        ("/dev/fd/12", 12),
        ("/proc/self/fd/3", 3),
        (f"/proc/{os.getpid()}/fd/3", 3),
        ("/dev/../dev/fd/5", 5),
        ("/dev/fd/", None),
        ("/dev/fd/x", None),
        ("/dev/stdout2", None),
        ("/x/dev/stdout", None),
        (f"/proc/{os.getpid()}0/fd/3", None),
        ("/dev/null", None),
    ):
        assert stream.descriptor_of(path) == number
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b").symlink_to("../c")
    (tmp_path / "a").symlink_to("in/b")
    (tmp_path / "c").symlink_to("/dev/fd/9")
    assert stream.descriptor_of(tmp_path / "a") == 9
    (tmp_path / "round").symlink_to("round")
    assert stream.descriptor_of(tmp_path / "round") is None


def chain(folder: Path, length: int) -> Path:
    """The first of `length` links, of which the last leads to a descriptor."""
    for number in range(length):
        after = f"{number + 1}" if number + 1 < length else "/dev/fd/9"
        (folder / f"{number}").symlink_to(after)
    return folder / "0"


@pytest.mark.parametrize(("length", "found"), [(39, 9), (40, None)])
def test_as_many_links_as_the_system_follows(tmp_path: Path, length: int, found: Any):
    assert stream.descriptor_of(chain(tmp_path, length)) == found


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (stat.S_IFSOCK, "is a socket"),
        (stat.S_IFBLK, "is a disk, which captions would overwrite"),
    ],
)
def test_sockets_and_disks_are_refused(monkeypatch, kind: int, said: str):
    monkeypatch.setattr(
        stream.os, "stat", lambda path: SimpleNamespace(st_mode=kind | 0o600)
    )
    with pytest.raises(OptionError) as caught:
        stream._opened("/place")
    assert str(caught.value) == f"/place: {said}; choose another place with -o FILE"


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 50.0, 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float):
        self.now += seconds
        self.slept += 1


def test_a_reader_has_five_seconds(tmp_path: Path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stream, "time", clock)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OptionError, match=r"pipe: nobody reads this pipe; start its r"):
        stream._opened(pipe)
    assert 55 < clock.now < 55.2
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    clock.slept = 0
    try:
        writer = stream._opened(pipe)
        assert os.get_blocking(writer) and clock.slept == 0
        os.close(writer)
    finally:
        os.close(reader)


def test_what_cannot_be_opened_is_said_at_once(tmp_path: Path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(stream, "time", clock)

    def refuse(*arguments: Any) -> int:
        raise OSError(errno.EACCES, "no")

    monkeypatch.setattr(stream.os, "open", refuse)
    with pytest.raises(OptionError, match="^/dev/null: no; choose another place"):
        stream.Stream("/dev/null", JSONLines())
    assert clock.slept == 0


def test_a_terminal_gets_no_control_characters(monkeypatch):
    written: list[bytes] = []
    monkeypatch.setattr(stream, "write_all", lambda file, data: written.append(data))
    out = stream.Stream("/dev/null", JSONLines())
    assert not out.on_terminal
    data = "a\x1b[2J\tb\n\u00e9\x9b".encode() + b"\xff"
    out._emit(data)
    out.on_terminal = True
    out._emit(data)
    assert written == [data, "a[2J\tb\n\u00e9\ufffd".encode()]
    out.close()
    assert out._file.closed


@pytest.mark.parametrize(
    ("encoding", "ascii"),
    [("utf-8", False), ("UTF8", False), ("utf-8-sig", False), ("ascii", True)]
    + [("latin-1", True), (None, True)],
)
def test_names_that_the_output_cannot_show(monkeypatch, encoding, ascii):
    class Out(io.StringIO):
        name = "x"

    out = Out()
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(
        isatty=out.isatty, encoding=encoding, name="x"
    ))  # fmt: skip
    made = stream.Stdout(JSONLines())
    assert made._ascii is ascii and not made.on_terminal


@pytest.mark.parametrize("closed", [None, SimpleNamespace(name=1)])
def test_a_standard_output_that_is_closed(monkeypatch, closed: Any):
    monkeypatch.setattr(sys, "stdout", closed)
    with pytest.raises(OptionError, match="^standard output is closed; choose a file"):
        stream.Stdout(JSONLines())
