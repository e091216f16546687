"""What a new output takes over from the old one: mode and owner, file by file."""

import os
import re
import stat
from pathlib import Path

import pytest

from fastvlm_mlx.files.atomic_write import _keep_status, staged_file, staged_folder
from fastvlm_mlx.files.own_output import OutputKind

ANY = OutputKind("an output", re.compile(".*"), lambda folder: True)


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch):
    """Folders are walked by name, so that a test knows what comes first."""
    walk = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda *a: iter(sorted(walk(*a))))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def replaced(out: Path, names: str, links: dict[str, Path]) -> None:
    with staged_folder(out, overwrite=True, kind=ANY) as partial:
        for name in names:
            (partial / name).write_text("new")
        for name, target in links.items():
            (partial / name).symlink_to(target)


def made(out: Path, **modes: int) -> Path:
    out.mkdir()
    for name, bits in modes.items():
        (out / name).write_text("old")
        (out / name).chmod(bits)
    return out


def test_new_files_among_old_ones(tmp_path: Path):
    out = made(tmp_path / "out", b=0o701, d=0o4640)
    out.chmod(0o2711)
    replaced(out, "abcd", {})
    assert (mode(out), mode(out / "b"), mode(out / "d")) == (0o2711, 0o701, 0o4640)
    assert mode(out / "a") == mode(out / "c") & 0o666 != 0o701


def test_links_take_and_give_nothing(tmp_path: Path):
    private = tmp_path / "private"
    private.write_text("mine")
    private.chmod(0o600)
    out = made(tmp_path / "out", a=0o644, c=0o640)
    replaced(out, "c", {"a": private})
    assert mode(private) == 0o600 and (out / "a").is_symlink()
    assert mode(out / "c") == 0o640
    old, new = made(tmp_path / "old", b=0o640), made(tmp_path / "new", a=0o644, b=0o644)
    (old / "a").symlink_to(private)
    _keep_status(old, new)
    assert (mode(new / "a"), mode(new / "b")) == (0o644, 0o640)


def test_the_mode_stays_where_the_owner_may_not(tmp_path: Path, monkeypatch):
    asked: list[tuple[str, int, int]] = []

    def refuse(path: Path, uid: int, gid: int):
        asked.append((Path(path).name.split(".")[1], uid, gid))
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse)
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o604)
    status = file.stat()
    with staged_file(file, overwrite=True) as partial:
        partial.write_text("new")
    assert (mode(file), file.read_text()) == (0o604, "new")
    assert asked == [("file", status.st_uid, status.st_gid)]


def test_an_output_stays_where_a_disk_keeps_no_modes(tmp_path: Path, monkeypatch):
    def refuse(path: Path, mode: int):
        raise PermissionError

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(Path, "chmod", refuse)
    with staged_file(tmp_path / "file", overwrite=True) as partial:
        partial.write_text("new")
    assert (tmp_path / "file").read_text() == "new"
