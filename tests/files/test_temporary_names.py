"""What a kill leaves behind, and who clears it away."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fastvlm_mlx.files import process_identity, temporary_names
from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.temporary_names import (
    partial_name,
    remove_stale,
    temporary_folder,
)
from tests.support.paths import ROOT


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_leaves_nothing_that_looks_finished(tmp_path: Path):
    out = tmp_path / "model"
    code = """
        import signal, sys, time
        from fastvlm_mlx.files.atomic_write import staged_folder
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # coverage.py has a handler
        with staged_folder(sys.argv[1]) as partial:
            (partial / "config.json").write_text("{}")
            print("ready", flush=True)
            time.sleep(60)
        """
    for number, left in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, 1)):
        process = start(code, out)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=10)
        assert process.returncode != 0
        assert not out.exists()
        assert len(names(tmp_path)) == left
    with staged_folder(out):
        assert len(names(tmp_path)) == 1  # the killed one's is gone
    assert names(tmp_path) == ["model"]


def test_stale_partials(tmp_path: Path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = partial_name("model")
    host = here.split("-")[1]
    elsewhere = ".model.partial-000000-1-00000000"
    of_dead = f".model.partial-{host}-{dead.pid}-00000000"
    set_aside = f".model.replaced-{host}-{dead.pid}-00000000"
    for name in (here, elsewhere, of_dead, set_aside, ".model.partial-x"):
        (tmp_path / name).mkdir()
    remove_stale(tmp_path, "model")
    kept = [here, elsewhere, ".model.partial-x", "model"]
    assert names(tmp_path) == sorted(kept)


def test_temporary_folder(tmp_path: Path):
    with pytest.raises(ValueError):
        with temporary_folder(tmp_path / "cache", "a.zip") as folder:
            (folder / "a").touch()
            raise ValueError
    assert names(tmp_path / "cache") == []


def test_a_clock_ahead_deletes_nothing_of_a_living_process(tmp_path: Path, monkeypatch):
    host = partial_name("model").split("-")[1]
    known = [partial_name("model"), f".model.partial-{host}-{os.getppid()}-00000000"]
    elsewhere = ".model.partial-000000-1-00000000-00000000"
    for name in (*known, elsewhere):
        (tmp_path / name).mkdir()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 20 * 24 * 60 * 60)
    remove_stale(tmp_path, "model")
    assert names(tmp_path) == sorted([*known, elsewhere])


def test_a_reused_process_id_is_known_by_its_start(tmp_path: Path):
    writer, start, random = partial_name("model").rsplit("-", 2)
    assert start == process_identity.start_id(os.getpid()) != process_identity.UNKNOWN
    (tmp_path / f"{writer}-{start}-{random}").mkdir()
    (tmp_path / f"{writer}-11111111-{random}").mkdir()
    remove_stale(tmp_path, "model")
    assert names(tmp_path) == [f"{writer}-{start}-{random}"]


def test_another_machines_leftovers_go_by_the_disks_clock(tmp_path: Path, monkeypatch):
    (tmp_path / ".model.partial-000000-1-00000000-00000000").mkdir()
    remove_stale(tmp_path, "model")
    assert len(names(tmp_path)) == 1
    monkeypatch.setattr(temporary_names, "_STALE_SECONDS", -1)
    remove_stale(tmp_path, "model")
    assert names(tmp_path) == []


def test_long_names_that_begin_alike_stay_apart(tmp_path: Path):
    long = "n" * 240
    dead = subprocess.Popen(["true"])
    dead.wait()
    old = partial_name(f"{long}1", "replaced").replace(
        f"-{os.getpid()}-", f"-{dead.pid}-"
    )
    (tmp_path / old).mkdir()
    remove_stale(tmp_path, f"{long}2")
    assert names(tmp_path) == [old]
    remove_stale(tmp_path, f"{long}1")
    assert names(tmp_path) == [f"{long}1"]
    with staged_folder(tmp_path / ("é" * 127)):
        pass
    assert (tmp_path / ("é" * 127)).is_dir()


def test_a_name_that_is_not_unicode(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9")
    with staged_folder(tmp_path / name):
        pass
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("n" * 180, "n" * 180),
        ("n" * 181, "n" * 180 + "~"),
        ("n" * 240, "n" * 180 + "~"),
        ("é" * 127, "é" * 90 + "~"),
        ("n" + "é" * 120, "n" + "é" * 89 + "~"),
    ],
)
def test_a_long_name_keeps_what_fits_of_its_start(name: str, kept: str):
    stem = temporary_names.stem(name)
    assert stem[: len(kept) + 1] == f".{kept}"
    assert len(stem) == 1 + len(kept) + (8 if kept.endswith("~") else 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_handlers_of_signals_are_put_back(number: int):
    def own(number: int, frame: object) -> None: ...

    before = signal.getsignal(number)
    try:
        for handler in (signal.SIG_DFL, signal.SIG_IGN, own):
            signal.signal(number, handler)
            with temporary_names.signals_unwind():
                ours = signal.getsignal(number)
                assert (ours is not handler) == (handler is signal.SIG_DFL)
            assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_each_file_of_a_folder_is_brought_to_the_disk(tmp_path: Path, monkeypatch):
    (tmp_path / "sub").mkdir()
    files = [tmp_path / "a", tmp_path / "sub" / "b"]
    for file in files:
        file.write_bytes(b"x")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda at: synced.append(os.fstat(at).st_ino))
    temporary_names.sync(tmp_path)
    assert sorted(synced) == sorted(file.stat().st_ino for file in files)
