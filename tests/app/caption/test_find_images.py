"""What `caption` finds on disks as they are: links, closed folders, pipes, kinds."""

import os
import shutil
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from fastvlm_mlx.app.caption.find_images import find, without_caption
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.processing.image_suffixes import foreign_suffixes, opened_suffixes
from tests.support.caption_lines import lines, names
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Images a.png, sub/b.png and other/c.png; the working folder is theirs."""
    for name in ("photos/a.png", "photos/sub/b.png", "other/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_image(1).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unprivileged(command: list[str]) -> list[str]:
    """The command, run so that modes hold for it even as root."""
    if os.geteuid() != 0:
        return command
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv to run without root's rights")
    drop = "-dac_override,-dac_read_search"
    # Where coverage.py measures, root alone may read its settings.
    unmeasured = ["env", "--unset=COVERAGE_PROCESS_START"]
    drop_all = [f"--bounding-set={drop}", f"--inh-caps={drop}"]
    return [*unmeasured, "setpriv", *drop_all, *command]


@pytest.mark.parametrize("pattern", [False, True])
def test_linked_folders_are_followed_and_loops_end(tree, pattern):
    """Two loops would be 2^40 names; a folder in the tree keeps its own name."""
    for at, target in enumerate(("..", ".", "../other", "sub", "nowhere", "5-x")):
        (tree / "photos" / f"{at}-x").symlink_to(target)
    found = find(["photos/**/*.png"] if pattern else ["photos"], recursive=True)
    wanted = {"photos/a.png", "photos/sub/b.png", "photos/0-x/other/c.png"}
    assert set(found) == wanted and len(found) == 3
    assert pattern or found[:2] == ["photos/a.png", "photos/sub/b.png"]
    assert find(["photos"]) == ["photos/a.png"]
    (tree / "link").symlink_to("photos")
    assert find(["link"], recursive=True)[0] == "link/a.png"


def test_patterns_in_the_middle(tree):
    (tree / "photos" / "sub" / "deep" / "d").mkdir(parents=True)
    make_image(1).save(tree / "photos" / "sub" / "deep" / "d" / "[1].png")
    assert find(["**/sub/**/*.png"]) == [
        "photos/sub/b.png",
        "photos/sub/deep/d/[1].png",
    ]
    assert find(["ph*/**"])[-1] == "photos/sub/deep/d/[1].png"
    assert find(["**/d/[[]1].png"]) == ["photos/sub/deep/d/[1].png"]
    assert find([f"{tree}/**/b.png"]) == [f"{tree}/photos/sub/b.png"]
    with pytest.raises(OptionError, match="no images match"):
        find(["nowhere/**/*.png"])


def test_closed_folders_are_named_and_left_out(tree, tiny):
    """And an image that may not be read fails alone."""
    (tree / "photos" / "lost+found").mkdir(mode=0)
    make_image(2).save(tree / "photos" / "closed.png")
    (tree / "photos" / "closed.png").chmod(0)
    code = "from fastvlm_mlx.app import cli; cli.main()"
    command = [sys.executable, "-c", code, "caption", "-r", "-m", tiny]
    command = unprivileged([*command, "--max-tokens", "2"])
    shown = subprocess.run([*command, "photos"], capture_output=True, text=True)
    assert shown.returncode == 1
    assert "warning: photos/lost+found: permission denied; left out" in shown.stderr
    assert "error: photos/closed.png: Permission denied; check" in shown.stderr
    assert shown.stdout.count('"caption": ') == 2 and "photos/sub/b.png" in shown.stdout
    name = "photos/lost+found"
    shown = subprocess.run([*command, name], capture_output=True, text=True)
    assert shown.stderr == f"error: {name}: permission denied; check its permissions\n"


def test_pipes_sockets_and_devices_are_no_images(tree, quick, monkeypatch):
    monkeypatch.chdir("photos")
    os.mkfifo("pipe.png")
    os.symlink("/dev/zero", "zero.png")
    os.mkdir("folder.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        for name in (".", "*.png", "**"):
            assert "a.png" in find([name])
            assert not {"pipe.png", "zero.png", "socket.png"} & set(find([name]))
    os.symlink("nowhere", "broken.png")
    out, err = quick(".", code=1)
    assert '"image": "a.png"' in out and "1 failed" in err
    assert "error: broken.png: no such file; check the path" in err


def test_an_image_that_vanishes_or_cannot_be_read_fails_alone(
    folder, quick, tmp_path, monkeypatch
):
    from fastvlm_mlx.app.caption.captioner import Captioner

    real = Captioner.pixels

    def pixels(self: Captioner, name: str):
        if name.endswith("/3.png"):
            os.unlink(name)
        if name.endswith("/4.png"):
            raise OSError(5, "Input/output error")
        if name.endswith("/5.png"):
            raise MemoryError
        return real(self, name)

    monkeypatch.setattr(Captioner, "pixels", pixels)
    _, err = quick(folder, "-o", tmp_path / "a.jsonl", code=1)
    assert err.startswith("9 images captioned") and "3 failed:" in err
    assert f"error: {folder}/3.png: no such file; check the path\n" in err
    assert f"error: {folder}/4.png: input/output error\n" in err
    assert f"error: {folder}/5.png: out of memory; close other programs" in err
    assert len(lines(tmp_path / "a.jsonl")) == 12


def test_every_suffix_that_pillow_opens(tmp_path, quick):
    suffixes = "png mpo jpe jfif pgm pbm pnm ppm ico apng dib tga pcx qoi psd jp2 MPO"
    for suffix in suffixes.split():
        make_image(1).save(tmp_path / f"x.{suffix}", "PNG")
    quick(tmp_path, "-o", tmp_path / "a.jsonl")
    assert sorted(names(tmp_path / "a.jsonl")) == sorted(
        f"x.{suffix}" for suffix in suffixes.split()
    )
    Image.init()
    for suffix, form in Image.registered_extensions().items():
        if form not in ("BUFR", "EPS", "GRIB", "HDF5", "WMF"):
            both = form in Image.SAVE and form in Image.OPEN
            assert suffix in opened_suffixes() or not both
    assert not opened_suffixes() & foreign_suffixes()
    assert not opened_suffixes() & {".pdf", ".mpg", ".h5", ".eps", ".txt", ".mp4"}


def test_images_of_other_kinds_are_named(folder, quick, tmp_path):
    for at in range(9):
        (folder / f"{at}.CR2").write_bytes(b"II*\0 raw")
    for name in ("a.jxr", "b.exr", "c.jxl", "d.svg", "notes.md", "x.mov", ".y.jxl"):
        (folder / name).write_bytes(b"x")
    _, err = quick(folder, "-o", tmp_path / "a.jsonl", code=1)
    warning, summary = err.splitlines()
    assert warning.startswith(
        "warning: 13 images left out, as .cr2, .exr, .jxl, .jxr, .svg cannot be"
        f" opened; save as JPEG: {folder}/0.CR2, "
    )
    assert warning.endswith(f"{folder}/a.jxr and 3 more")
    assert summary.startswith("12 images captioned")
    _, err = quick(folder, "-o", tmp_path / "a.jsonl", code=1)
    assert err.splitlines()[1:] == ["12 of 12 images have captions already"]
    with pytest.raises(OptionError, match=r"[*].exr: 1 image left out, as .exr cannot"):
        find([f"{folder}/*.exr"])
    # A file that is named itself may be called anything.
    make_image(1).save(folder / "really.jxl", "PNG")
    quick(folder / "really.jxl")


def test_thumbnails_and_bins_are_left_out(tree):
    for name in ("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", ".thumbnails"):
        place = tree / "photos" / name / "a.png"
        place.mkdir(parents=True)
        make_image(1).save(place / "SYNOPHOTO_THUMB_XL.png")
    (tree / "photos" / "._a.png").write_bytes(b"what macOS leaves behind")
    assert find(["photos"], recursive=True) == ["photos/a.png", "photos/sub/b.png"]
    assert find(["photos/**/*"]) == ["photos/a.png", "photos/sub/b.png"]
    assert len(find(["photos/@eaDir/**/*.png", "photos/@eaDir/*/*.png"])) == 1
    assert len(find(["photos/@eaDir"], recursive=True)) == 1


def test_a_name_in_another_unicode_form_is_the_same(folder, quick, tmp_path):
    out = tmp_path / "a.jsonl"
    one, two = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    os.rename(folder / "1.png", folder / one)
    quick(folder, "-o", out)
    os.rename(folder / one, folder / two)
    _, err = quick(folder, "-o", out)
    assert err == "12 of 12 images have captions already\n"
    # Two files whose names differ in nothing else are two images.
    make_image(1).save(folder / one)
    if len(os.listdir(folder)) == 13:
        assert without_caption([str(folder / two)], {str(folder / one)})
        _, err = quick(folder, "-o", out)
        assert err.startswith("12 of 13 images") and len(lines(out)) == 13


def test_one_image_has_a_caption(folder, quick, tmp_path):
    quick(folder / "1.png", "-o", tmp_path / "a.jsonl")
    _, err = quick(folder / "1.png", "-o", tmp_path / "a.jsonl")
    assert err == "1 of 1 image has a caption already\n"


def test_a_quoted_tilde(folder, quick, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    for out in ("~/a.jsonl", "~/b.csv"):
        quick("~/images/1.png", "~/images/2*.png", "-o", out)
    assert names(tmp_path / "a.jsonl") == ["1.png", "2.png"]
    assert (tmp_path / "b.csv").exists() and not (folder / "~").exists()
    _, err = quick("1.png", "--schema", "~/lost.json", code=1)
    assert f"{tmp_path}/lost.json" in err
