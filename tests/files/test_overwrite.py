"""What `--overwrite` may replace, what of it stays, and what is put back."""

import os
import re
import socket
import stat
from pathlib import Path

import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files import atomic_write
from fastvlm_mlx.files.atomic_write import staged_file, staged_folder
from fastvlm_mlx.files.output_check import check_output
from fastvlm_mlx.files.own_output import OutputKind


def marked(folder: Path) -> bool:
    return (folder / "mark").is_file() and (folder / "mark").read_text() == "ours"


KIND = OutputKind("a thing", re.compile(r"mark|weights|sub/part"), marked)


def ours(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "mark").write_text("ours")
    (folder / "sub" / "part").write_text("old")
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }


def photos(place: Path) -> str:
    (place / "holiday.png").write_bytes(b"png")
    return "holiday.png"


def checkout(place: Path) -> str:
    ours(place / "x").rename(place / "sub")
    (place / "mark").write_text("ours")
    (place / ".git").mkdir()
    (place / ".git" / "HEAD").write_text("ref")
    return ".git/HEAD"


def one_more(place: Path) -> str:
    (place / "mark").write_text("ours")
    (place / "notes\n.txt").write_text("mine")
    return r"'notes\n.txt'"


def one_more_below(place: Path) -> str:
    ours(place / "x").rename(place / "sub")
    (place / "mark").write_text("ours")
    return "sub/mark"


def empty_subfolder(place: Path) -> str:
    (place / "mark").write_text("ours")
    (place / "drafts").mkdir()
    return "drafts/"


def link_of_our_name(place: Path) -> str:
    (place.parent / "far").write_text("far")
    (place / "mark").write_text("ours")
    (place / "weights").symlink_to(place.parent / "far")
    return "weights"


@pytest.mark.parametrize(
    "fill",
    [photos, checkout, one_more, one_more_below, empty_subfolder, link_of_our_name],
)
def test_a_folder_with_anything_else_is_refused(tmp_path: Path, fill):
    out = tmp_path / "out"
    out.mkdir()
    name, before = fill(out), tree(tmp_path)
    message = (
        f"{out}: holds {name}, which is not part of a thing that fastvlm-mlx wrote;"
        " name another output"
    )
    for overwrite in (True, False):
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            check_output(out, overwrite=overwrite, kind=KIND)
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            with staged_folder(out, overwrite=overwrite, kind=KIND):
                raise AssertionError("not reached")
    assert tree(tmp_path) == before


def test_a_folder_without_our_mark_is_refused(tmp_path: Path):
    (tmp_path / "mark").write_text("somebody's")
    message = f"{tmp_path}: was not written by fastvlm-mlx; name another output"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        with staged_folder(tmp_path, overwrite=True, kind=KIND):
            raise AssertionError("not reached")
    with pytest.raises(OptionError, match="holds mark, which is not part of an output"):
        check_output(tmp_path, overwrite=True)


def test_what_may_be_replaced(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    ours(tmp_path / "looked-at")
    (tmp_path / "looked-at" / ".DS_Store").write_text("Finder")
    (tmp_path / "looked-at" / "sub" / "._part").write_text("Finder")
    for out in (tmp_path / "empty", tmp_path / "looked-at"):
        check_output(out, overwrite=True, kind=KIND)
        with pytest.raises(OptionError, match="exists already; .* or pass --overwrite"):
            check_output(out, overwrite=False, kind=KIND)
        with staged_folder(out, overwrite=True, kind=KIND) as partial:
            (partial / "weights").write_text("new")
        assert tree(out) == {"weights": b"new"}


def test_it_is_looked_at_again_before_it_is_replaced(tmp_path: Path):
    out = ours(tmp_path / "out")
    with pytest.raises(OptionError, match="holds diary.txt, which is not part"):
        with staged_folder(out, overwrite=True, kind=KIND) as partial:
            (partial / "weights").write_text("new")
            (out / "diary.txt").write_text("Monday")
    assert (out / "diary.txt").read_text() == "Monday"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "name",
    [
        "converted/owner--m@0123456789ab-v1",
        "converted/m-01234567@0123456789ab-v12",
        "coreml/0123456789abcdef",
        "coreml/m@0123456789ab-v1-0123456789ab.mlpackage",
    ],
)
def test_what_the_cache_makes_is_replaced(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path))
    out = tmp_path / name
    out.mkdir(parents=True)
    (out / "half").write_text("cut")
    with staged_folder(out, overwrite=True, kind=KIND) as partial:
        (partial / "weights").write_text("new")
    assert tree(out) == {"weights": b"new"}


@pytest.mark.parametrize(
    "name", ["mine", "converted/photos", "coreml/app", "coreml/app.mlpackage"]
)
def test_the_cache_may_be_among_the_users_folders(tmp_path: Path, monkeypatch, name):
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path))
    other = tmp_path / name
    other.mkdir(parents=True)
    (other / "half").write_text("cut")
    with pytest.raises(OptionError, match="holds half"):
        check_output(other, overwrite=True, kind=KIND)


def test_mode_and_owner_stay(tmp_path: Path):
    out = ours(tmp_path / "out")
    file = tmp_path / "file"
    file.write_text("old")
    modes = {out: 0o700, out / "mark": 0o600, out / "sub" / "part": 0o640, file: 0o600}
    for path, mode in modes.items():
        path.chmod(mode)
        if os.getuid() == 0:
            os.chown(path, 1234, 5678)
    with staged_folder(out, overwrite=True, kind=KIND) as partial:
        assert stat.S_IMODE(partial.stat().st_mode) == 0o700
        (partial / "sub").mkdir()
        (partial / "mark").write_text("new")
        (partial / "sub" / "part").write_text("new")
    with staged_file(file, overwrite=True) as partial:
        partial.write_text("new")
    for path, mode in modes.items():
        assert stat.S_IMODE(path.stat().st_mode) == mode
        if os.getuid() == 0:
            assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)
    assert (out / "mark").read_text() == file.read_text() == "new"


def test_devices_pipes_and_sockets_stay(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    inodes = {p.name: p.lstat().st_ino for p in tmp_path.iterdir()}
    for name in ("pipe", "link", "socket", "/dev/null", "/dev/stdout"):
        out = tmp_path / name
        if name == "/dev/stdout" and out.is_file():
            continue  # pytest's own file
        message = f"{out}: is a device, a pipe or a socket; name another output"
        for stage in (staged_file, staged_folder):
            with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
                with stage(out, overwrite=True):
                    raise AssertionError("not reached")
        with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
            check_output(out, overwrite=True)
    assert {p.name: p.lstat().st_ino for p in tmp_path.iterdir()} == inodes
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_link_to_a_file_stays_a_link(tmp_path: Path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("made")
    for name, real in (("link", "real"), ("dangling", "made")):
        with staged_file(tmp_path / name, overwrite=True) as partial:
            partial.write_text("new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / real).read_text() == "new"


def test_the_old_folder_comes_back_if_the_new_one_cannot(tmp_path: Path, monkeypatch):
    out = ours(tmp_path / "out")
    before, rename = tree(out), os.rename

    def fails(source: Path, target: Path) -> None:
        if ".partial-" in Path(source).name:
            raise OSError(5, "Input/output error", str(source))
        rename(source, target)

    monkeypatch.setattr(atomic_write.os, "rename", fails)
    with pytest.raises(OptionError, match=r"cannot be written \(input/output error\)"):
        with staged_folder(out, overwrite=True, kind=KIND) as partial:
            (partial / "mark").write_text("new")
    assert tree(out) == before
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("model", "model: is the source itself; name another output"),
        ("model/out", "out: lies inside the source; name an output outside it"),
        (".", "holds the source; name an output beside it"),
    ],
)
def test_what_is_read_is_not_written_to(tmp_path: Path, out: str, message: str):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(OptionError, match=f"{message}$"):
        check_output(tmp_path / out, overwrite=True, source=tmp_path / "model")
    check_output(tmp_path / "other", overwrite=True, source=tmp_path / "model")
