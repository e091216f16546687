"""Paths confined to folders: what is in them can be read, nothing else."""

import os
import socket
from pathlib import Path

import pytest

from fastvlm_mlx.app.mcp import roots as module
from fastvlm_mlx.app.mcp.roots import Roots
from fastvlm_mlx.errors import ImageError, OptionError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """root/a.png, root/deep/b.png; beside them other/c.png."""
    for name in ("root/a.png", "root/deep/b.png", "other/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


@pytest.fixture
def roots(tree: Path) -> Roots:
    return Roots([tree / "root"])


@pytest.mark.parametrize(
    "path", ["a.png", "./a.png", "deep/../a.png", "deep//..///a.png", "{}/root/a.png"]
)
def test_files_inside_are_read(roots: Roots, tree: Path, path: str):
    assert roots.read(path.format(tree)) == b"root/a.png"


def test_a_file_is_looked_for_in_every_folder(tree: Path):
    both = Roots([tree / "root", tree / "other"])
    assert both.read("c.png") == b"other/c.png"
    assert both.read(str(tree / "other/c.png")) == b"other/c.png"
    assert both.read("../other/c.png") == b"other/c.png"
    with pytest.raises(ImageError, match=r"^d.png: no such file in .*root, .*other"):
        both.read("d.png")


@pytest.mark.parametrize(
    "path",
    [
        "../other/c.png",
        "{}/other/c.png",
        "/etc/passwd",
        "/",
        "..",
        ".",
        "{}/root",
        "{}/root/../other/c.png",
        "{}/root2/a.png",
        "../nowhere/x.png",
        "~root/x.png",
        "~/x.png",
        "/proc/self/environ",
        "/dev/zero",
        "link.png",
        "folder/c.png",
        "folder/../c.png",
        "chain.png",
    ],
)
def test_what_is_outside_is_not_read_and_not_told(roots: Roots, tree: Path, path: str):
    root = tree / "root"
    (root / "link.png").symlink_to(tree / "other/c.png")
    (root / "folder").symlink_to(tree / "other")
    (root / "chain.png").symlink_to("link.png")
    (tree / "root2").mkdir()
    (tree / "root2/a.png").write_bytes(b"x")
    with pytest.raises(ImageError) as error:
        roots.read(path.format(tree))
    message = str(error.value)
    # Whether it is there or not.
    assert message.startswith(f"{path.format(tree)}: outside of what may be read")
    assert message.endswith("or start the server with --root DIR")


def test_links_that_stay_inside_are_followed(roots: Roots, tree: Path):
    (tree / "root/link.png").symlink_to("deep/b.png")
    (tree / "root/folder").symlink_to(tree / "root/deep")
    assert roots.read("link.png") == roots.read("folder/b.png") == b"root/deep/b.png"
    (tree / "alias").symlink_to(tree / "root")
    aliased = Roots([tree / "alias"])
    assert aliased.read(str(tree / "alias/a.png")) == b"root/a.png"
    assert aliased.read(str(tree / "root/a.png")) == b"root/a.png"


def test_a_link_that_appears_after_the_check_leads_nowhere(
    roots: Roots, tree: Path, monkeypatch: pytest.MonkeyPatch
):
    checked = roots._place

    def swapped(text: str, name: str):
        place = checked(text, name)
        (tree / "root/deep").rename(tree / "root/old")
        (tree / "root/deep").symlink_to(tree / "other")
        (tree / "other/b.png").write_bytes(b"secret")
        return place

    monkeypatch.setattr(roots, "_place", swapped)
    with pytest.raises(ImageError, match=r"^deep/b.png: (not a directory|too many)"):
        roots.read("deep/b.png")


def test_only_regular_files_are_read(roots: Roots, tree: Path):
    os.mkfifo(tree / "root/pipe")
    with pytest.raises(ImageError, match="^pipe: is no regular file; give an image"):
        roots.read("pipe")
    with pytest.raises(ImageError, match="^deep: is a folder; give an image in it"):
        roots.read("deep")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tree / "root/socket"))
        with pytest.raises(ImageError, match="^socket: no such device"):
            roots.read("socket")
    with pytest.raises(ImageError, match="^null: is no regular file"):
        Roots([Path("/dev")]).read("null")


@pytest.mark.parametrize(
    "path, fault",
    [
        ("missing.png", "no such file in .*root; check the path"),
        ("a.png/x", "not a directory; check the path"),
        ("x" * 300, "file name too long; check the path"),
        ("a\0b", "embedded null byte; check the path"),
        ("\ud800.png", "utf-8.*; check the path"),
        ("loop", "too many levels of symbolic links; check the path"),
    ],
)
def test_faults_are_one_line(roots: Roots, tree: Path, path: str, fault: str):
    (tree / "root/loop").symlink_to("loop")
    with pytest.raises(ImageError, match=fault) as error:
        roots.read(path)
    assert str(error.value).isprintable()


def test_large_and_unreadable_files(
    roots: Roots, tree: Path, monkeypatch: pytest.MonkeyPatch
):
    (tree / "root/large.png").write_bytes(b"x" * (2 << 20))
    with pytest.raises(ImageError, match="^large.png: more than 1 MB; save a smaller"):
        roots.read("large.png", 1 << 20)
    assert len(roots.read("large.png", 2 << 20)) == 2 << 20

    def denied(*arguments: object, **options: object):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module.os, "open", denied)
    with pytest.raises(ImageError, match="^a.png: permission denied; check the path"):
        roots.read("a.png")


def test_roots_must_be_folders(tree: Path):
    with pytest.raises(OptionError, match=r"--root .*nope: no such folder; give one"):
        Roots([tree / "nope"])
    with pytest.raises(OptionError, match=r"--root .*a.png: no such folder"):
        Roots([tree / "root/a.png"])
    assert str(Roots([tree / "root", tree / "other"])) == (
        f"{(tree / 'root').resolve()}, {(tree / 'other').resolve()}"
    )
