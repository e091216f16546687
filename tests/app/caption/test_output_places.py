"""`caption -o`: devices, pipes, links and modes of the file system."""

import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any, cast

import pytest

from fastvlm_mlx.app.caption import stream
from fastvlm_mlx.app.caption.records import JSONLines, Record
from fastvlm_mlx.app.lines import output, writing
from fastvlm_mlx.errors import OptionError
from tests.support.caption_lines import LABEL, captioned, lines, opened
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]
PROGRAM = "from fastvlm_mlx.app.cli import main; main()"


@pytest.mark.parametrize(("name", "minor"), [("null", 3), ("zero", 5), ("full", 7)])
def test_devices_are_written_and_stay(folder, quick, tmp_path, name, minor):
    if not os.path.exists(f"/dev/{name}"):
        pytest.skip(f"no /dev/{name} here")
    place = tmp_path / name
    try:
        if sys.platform != "linux":
            raise OSError("other systems number their devices otherwise")
        os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        place.open("wb").close()
    except OSError:  # not root, or a disk without devices: a link shows the same
        place.unlink(missing_ok=True)
        place.symlink_to(f"/dev/{name}")
    before = place.lstat()
    for options in ((), ("--overwrite",), ("--format", "csv")):
        full = name == "full"
        _, err = quick(folder, "-o", place, *options, code=1 if full else 0)
        assert not full or f"error: {place}: no space left on device" in err
        after = place.lstat()
        assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_a_dash_is_standard_output(folder, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = quick("images", "-o", "-")
    assert len([json.loads(line) for line in out.splitlines()]) == 12
    assert quick("images", "-o", "-", "--format", "csv")[0].startswith("image,caption")
    assert not Path("-").exists()
    quick("images", "-o", "./-")
    assert len(lines(Path("-"))) == 12
    _, err = quick("images", "-o", "", code=2)
    assert "-o '' is empty; name a file, or - for standard output" in err


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_name(folder, quick, tmp_path, name):
    """It is not opened anew: what a shell has redirected goes on where it is."""
    if not os.path.exists(name):
        pytest.skip(f"no {name} here")
    link = tmp_path / "link.jsonl"
    link.symlink_to(name)
    for place in (name, link):
        out, _ = quick(folder, "-o", place)
        assert len([json.loads(line) for line in out.splitlines()]) == 12
    assert link.is_symlink()


def test_a_descriptor_that_a_shell_gave(folder, quick, tmp_path):
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b"mine\n")
        file.flush()
        quick(folder / "1.png", "-o", f"/dev/fd/{file.fileno()}")
        os.fstat(file.fileno())  # still open
    assert (tmp_path / "a.jsonl").read_text().startswith('mine\n{"image": ')
    _, err = quick(folder, "-o", "/dev/fd/999", code=1)
    assert "/dev/fd/999: bad file descriptor; choose another place" in err


def test_a_pipe_with_a_reader(folder, quick, tmp_path):
    pipe, read = tmp_path / "pipe.csv", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    quick(folder, "-o", pipe)
    reader.join(10)
    assert read[0].startswith(b"image,caption,") and read[0].count(b"\n") == 13
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_pipe_without_a_reader(folder, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "READER", 0.1)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    _, err = quick(folder, "-o", pipe, code=1)
    assert err == f"error: {pipe}: nobody reads this pipe; start its reader first\n"
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_reader_that_goes_away(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    place = stream.Stream(pipe, JSONLines())
    os.close(reader)
    with pytest.raises(OptionError, match="pipe: its reader has gone; run the same"):
        place.write(captioned("a.png"))
    place.close()


def test_a_socket_is_refused_and_stays(folder, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may have 107 letters
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        _, err = quick("images", "-o", "socket", "--overwrite", code=1)
    assert err == "error: socket: is a socket; choose another place with -o FILE\n"
    assert stat.S_ISSOCK(os.lstat("socket").st_mode)


def test_a_closed_standard_output(folder, quick, tmp_path, monkeypatch):
    """Python has no stream for it, or one that `main` opened by the number."""
    for closed in (None, types.SimpleNamespace(name=1)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", closed)
            with pytest.raises(OptionError, match="is closed; choose a file with -o"):
                stream.Stdout(JSONLines())
    monkeypatch.setattr(sys, "stdout", None)
    quick(folder, "-o", tmp_path / "a.jsonl")


def test_a_standard_output_that_fails(folder, tiny):
    """One line and exit code 1, though Python flushes once more at the exit."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    command = [sys.executable, "-c", PROGRAM, "caption", str(folder / "1.png")]
    command += ["-m", tiny, "--max-tokens", "2"]
    with open("/dev/full", "wb") as full:
        shown = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert shown.returncode == 1
    assert b"error: standard output: no space left on device; free" in shown.stderr
    assert b"Exception" not in shown.stderr


def test_a_name_that_ends_in_a_slash(folder, quick, tmp_path):
    _, err = quick(folder, "-o", f"{tmp_path}/new/", code=1)
    assert f"{tmp_path}/new/: names a folder; name a file, as {tmp_path}/new/c" in err
    assert not (tmp_path / "new").exists()


def test_links_modes_and_other_names_stay(folder, quick, tmp_path):
    """Also when images that failed are tried again, which drops their lines."""
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "a.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    (folder / "5.png").write_bytes(b"not an image")
    quick(folder, "-o", link, code=1)
    assert link.is_symlink() and len(lines(target)) == 12
    target.chmod(0o600)
    make_image(5).save(folder / "5.png")
    quick(folder, "-o", link)
    assert link.is_symlink() and os.readlink(link) == str(target)
    assert "error" not in target.read_text() and len(lines(target)) == 12
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "far") == ["a.jsonl"]

    os.link(target, tmp_path / "second.jsonl")
    make_image(13).save(folder / "13.png")
    (folder / "14.png").write_bytes(b"not an image")
    quick(folder, "-o", target, code=1)
    make_image(14).save(folder / "14.png")
    quick(folder, "-o", target)
    assert os.path.samefile(target, tmp_path / "second.jsonl")
    assert len(lines(target)) == 14 and "error" not in target.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files of others")
def test_the_owner_stays(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(JSONLines().encode(Record("a.png", **LABEL, error="bad")))
    os.chown(path, 12345, 54321)
    file = opened(path)
    file.begin()
    file.close()
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)
    assert path.read_bytes() == b""


@pytest.mark.parametrize(("module", "call"), [(output, "take_over"), (os, "replace")])
def test_lines_are_dropped_in_place_where_no_file_can_be_put(
    tmp_path, monkeypatch, module, call
):
    """A folder that takes no files, or a file that only its owner could make."""

    def refuse(*arguments: object):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path, form = tmp_path / "a.jsonl", JSONLines()
    bad = form.encode(Record("bad.png", **LABEL, error="bad"))
    good = [form.encode(captioned(f"{at}.png")) for at in range(3)]
    path.write_bytes(good[0] + bad + good[1] + bad + good[2] + b'{"image": "torn')
    inode = path.stat().st_ino
    monkeypatch.setattr(module, call, refuse)
    file = opened(path)
    file.begin()
    file.write(captioned("new.png"))
    file.close()
    assert path.stat().st_ino == inode and os.listdir(tmp_path) == ["a.jsonl"]
    assert path.read_bytes() == b"".join(good) + form.encode(captioned("new.png"))


def test_a_name_too_long_for_a_second_one(folder, quick, tmp_path):
    out = tmp_path / ("a" * 249 + ".jsonl")
    (folder / "5.png").write_bytes(b"not an image")
    quick(folder, "-o", out, code=1)
    make_image(5).save(folder / "5.png")
    quick(folder, "-o", out)
    assert len(lines(out)) == 12 and "error" not in out.read_text()


def test_an_empty_file_of_the_user_stays(tmp_path):
    path = tmp_path / "a.jsonl"
    path.touch()
    opened(path).close()
    assert path.exists()


def test_a_file_that_goes_away_while_it_is_written(tmp_path):
    path = tmp_path / "a.jsonl"
    file = opened(path)
    file.begin()
    file.write(captioned("a.png"))
    path.unlink()
    with pytest.raises(OptionError, match="was deleted or replaced meanwhile; run"):
        file.write(captioned("b.png"))
    file.close()


def test_a_full_pipe_is_waited_for(monkeypatch):
    """Not asked again and again, which would take a whole processor."""
    takes, done = iter([2, None, 0, None, 3]), bytearray()
    waited: list[tuple[list[object], ...]] = []

    class Pipe:
        def write(self, data: memoryview) -> int | None:
            taken = next(takes)
            done.extend(data[: taken or 0])
            return taken

    pipe = Pipe()
    monkeypatch.setattr(writing.select, "select", lambda *sets: waited.append(sets))
    writing.write_all(cast(Any, pipe), b"abcde")
    assert done == b"abcde" and next(takes, "all") == "all"
    assert waited == [([], [pipe], [])] * 2
