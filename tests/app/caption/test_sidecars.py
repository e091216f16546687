"""`caption --format txt`: a text beside each image, and one failure ends no run."""

import errno
import os
import stat
import unicodedata
from pathlib import Path

import pytest

from fastvlm_mlx.app.caption import sidecars
from fastvlm_mlx.app.caption.records import Record
from fastvlm_mlx.app.caption.sidecars import Sidecars
from fastvlm_mlx.errors import OptionError
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]
OPTIONS = ("--format", "txt")


def captioned(name: Path) -> Record:
    return Record(str(name), "m", "p", caption="A cat.", finish_reason="stop")


def test_names_that_are_too_long(folder, quick):
    """254 letters have a text; 255 with a shorter suffix have none and fail alone."""
    long, longer = folder / ("a" * 250 + ".png"), folder / ("b" * 252 + ".im")
    for path in (long, longer):
        make_image(1).save(path, "PNG")
    _, err = quick(folder, *OPTIONS, code=1)
    assert err.startswith("13 images captioned") and "1 failed:\nerror: " in err
    assert "b.txt: file name too long; choose another place with -o FILE\n" in err
    assert len(list(folder.glob("*.txt"))) == 13
    assert long.with_suffix(".txt").read_text().endswith("\n")
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


def test_places_that_take_no_text(folder, quick, monkeypatch):
    """They are told before the image is captioned, and nothing of them is changed."""
    (folder / "1.txt").mkdir()
    os.mkfifo(folder / "2.txt")
    (folder / "3.txt").symlink_to("/dev/null")
    (folder / "4.txt").symlink_to(folder / "lost" / "4.txt")
    (folder / "closed").mkdir()
    make_image(1).save(folder / "closed" / "a.png")
    real = os.access

    def access(path: str, mode: int) -> bool:
        return "closed" not in str(path) and real(path, mode)

    monkeypatch.setattr(os, "access", access)  # root may write everywhere
    for overwrite in ((), ("--overwrite",)):
        _, err = quick(folder, "-r", *OPTIONS, *overwrite, code=1)
        assert "8 images captioned" in err or "8 of 13 images have captions" in err
        assert "5 failed:" in err
        for name in ("1.txt", "2.txt", "3.txt"):
            assert f"error: {folder}/{name}: is no file; rename it, or use -o" in err
        for name in ("4.txt", "closed/a.txt"):
            assert f"error: {folder}/{name}: cannot be written; choose a place" in err
    assert (folder / "1.txt").is_dir() and (folder / "4.txt").is_symlink()
    assert stat.S_ISFIFO((folder / "2.txt").stat().st_mode)
    assert os.readlink(folder / "3.txt") == "/dev/null"


def test_an_empty_text_is_no_caption(folder, quick):
    (folder / "3.txt").touch(0o600)
    (folder / "3.txt").chmod(0o600)
    (folder / "4.txt").write_text("mine")
    _, err = quick(folder, *OPTIONS)
    assert err.startswith("1 of 12 images have captions already\n11 images captioned")
    assert (folder / "3.txt").read_text().strip()
    assert stat.S_IMODE((folder / "3.txt").stat().st_mode) == 0o600
    assert (folder / "4.txt").read_text() == "mine"
    _, err = quick(folder, *OPTIONS)
    assert err == "12 of 12 images have captions already\n"


def test_links_modes_and_other_names_stay(folder, quick, tmp_path):
    far = tmp_path / "far.txt"
    far.write_text("old")
    far.chmod(0o640)
    (folder / "1.txt").symlink_to(far)
    (folder / "2.txt").symlink_to(tmp_path / "new.txt")
    os.link(far, folder / "3.txt")
    quick(folder, *OPTIONS, "--overwrite")
    assert (folder / "1.txt").is_symlink() and (folder / "2.txt").is_symlink()
    assert os.path.samefile(far, folder / "3.txt")
    assert far.read_text() != "old" and (tmp_path / "new.txt").read_text().strip()
    assert stat.S_IMODE(far.stat().st_mode) == 0o640


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_takes_no_new_files(folder, monkeypatch, there):
    def refuse(*arguments: object):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    text = folder / "1.txt"
    if there:
        text.write_text("old")
    monkeypatch.setattr(os, "replace", refuse)
    place = Sidecars([str(folder / "1.png")], overwrite=True)
    if there:
        place.write(captioned(folder / "1.png"))
        assert text.read_text() == "A cat.\n"
    else:
        with pytest.raises(sidecars.NoPlace, match="operation not permitted"):
            place.write(captioned(folder / "1.png"))
        assert not text.exists()
    assert not list(folder.glob(".*"))


def test_an_image_is_not_its_own_text(folder, quick):
    """A file that is named itself may be called anything; a link may lead anywhere."""
    make_image(1).save(folder / "really.txt", "PNG")
    (folder / "1.txt").symlink_to(folder / "1.png")
    before = [(folder / name).read_bytes() for name in ("really.txt", "1.png")]
    names = [folder / "really.txt", folder / "1.png", folder / "2.png"]
    for overwrite in ((), ("--overwrite",)):
        _, err = quick(*names, *OPTIONS, *overwrite, code=1)
        for name in ("really.txt", "1.txt"):
            assert f"error: {folder}/{name}: is the image itself; use -o FILE" in err
    after = [(folder / name).read_bytes() for name in ("really.txt", "1.png")]
    assert after == before and (folder / "2.txt").exists()


def test_a_name_in_another_unicode_form_is_the_same(folder, quick):
    one, two = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    os.rename(folder / "1.png", folder / one)
    quick(folder, *OPTIONS)
    os.rename(folder / one, folder / two)
    _, err = quick(folder, *OPTIONS)
    assert err == "12 of 12 images have captions already\n"
    quick(folder, *OPTIONS, "--overwrite")
    assert len(list(folder.glob("*.txt"))) == 12


def test_a_full_disk_ends_the_run(folder, quick, monkeypatch):
    def full(place: Path, data: bytes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sidecars, "write_beside", full)
    _, err = quick(folder, *OPTIONS, code=1)
    assert f"error: {folder}/1.txt: no space left on device; free some space" in err
    assert "12 images to go; run the same command to go on" in err


def test_what_killed_runs_left_is_removed(folder, quick):
    """By its name it is known whose it is; a text of a living run is left alone."""
    from fastvlm_mlx.files.temporary_names import partial_name

    own = folder / partial_name("caption")
    dead = folder / own.name.replace(f"-{os.getpid()}-", "-4194303-")
    for path in (own, dead):
        path.write_text("half")
    quick(folder, *OPTIONS)
    assert own.exists() and not dead.exists()


def test_addresses_have_no_place():
    with pytest.raises(OptionError, match="has no place for a .txt; use -o FILE"):
        Sidecars(["http://x/y.png"], overwrite=False)
