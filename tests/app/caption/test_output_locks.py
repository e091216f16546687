"""`caption -o`: two runs on one file, and file systems without locks."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from fastvlm_mlx.app.caption.records import JSONLines, Record
from fastvlm_mlx.errors import OptionError
from tests.support.caption_lines import LABEL, captioned, names, opened

pytest_plugins = ["tests.support.caption_runs"]


@pytest.mark.parametrize("failed", [False, True])
def test_a_lock_on_a_file_without_a_name(tmp_path, monkeypatch, failed):
    """The first run replaces or removes the file as the second is about to lock it."""
    path, real = tmp_path / "a.jsonl", fcntl.flock
    if failed:
        path.write_bytes(JSONLines().encode(Record("bad.png", **LABEL, error="bad")))
    first = opened(path)

    def flock(file: object, how: int):
        monkeypatch.setattr(fcntl, "flock", real)
        first.begin() if failed else first.close()
        real(file, how)  # type: ignore

    monkeypatch.setattr(fcntl, "flock", flock)
    if failed:
        with pytest.raises(OptionError, match="another run is writing it; wait"):
            opened(path)
        first.write(captioned("a.png"))
        first.close()
        assert names(path) == ["a.png"]
    else:
        second = opened(path)
        second.begin()
        second.write(captioned("b.png"))
        second.close()
        assert names(path) == ["b.png"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_disks_without_locks(folder, quick, tmp_path, monkeypatch, number):
    def none(*arguments: object):
        raise OSError(number, os.strerror(number))

    out = tmp_path / "a.jsonl"
    monkeypatch.setattr(fcntl, "flock", none)
    _, err = quick(folder / "1.png", "-o", out)
    assert "warning" not in err  # the other kind of lock holds
    monkeypatch.setattr(fcntl, "lockf", none)
    _, err = quick(folder, "-o", out)
    assert len(names(out)) == 12
    warning = f"warning: {out}: its disk has no locks; do not start a second run on it"
    assert err.splitlines()[0] == warning
    # Two runs against that advice: every line is kept.
    first, second = opened(tmp_path / "b.jsonl"), opened(tmp_path / "b.jsonl")
    first.begin()
    second.begin()
    for at, file in enumerate((first, second, first)):
        file.write(captioned(f"{at}.png"))
    first.close()
    second.close()
    assert names(tmp_path / "b.jsonl") == ["0.png", "1.png", "2.png"]


def test_posix_locks_hold_against_another_process(tmp_path, monkeypatch):
    """Where there is no flock: the second run is refused, and leaves no file."""

    def none(*arguments: object):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    path = tmp_path / "a.jsonl"
    file = opened(path)
    file.begin()
    file.write(captioned("a.png"))
    code = f"""
import errno, fcntl
def none(*arguments): raise OSError(errno.ENOLCK, "none")
fcntl.flock = none
from fastvlm_mlx.app.caption.output import File
from fastvlm_mlx.app.caption.records import JSONLines
File({str(path)!r}, JSONLines(), model="m", prompt="p", overwrite=False)
"""
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert "another run is writing it; wait for that one" in shown.stderr
    file.close()
    assert subprocess.run(command).returncode == 0
    assert names(path) == ["a.png"]
