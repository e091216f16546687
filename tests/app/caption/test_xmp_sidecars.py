"""`caption --xmp`: one file beside each image, and those of others are never lost."""

import os
from pathlib import Path

import numpy as np
import pyexiv2
import pytest

from fastvlm_mlx.app.caption import sidecars
from fastvlm_mlx.app.caption.captioner import Caption, Captioner
from fastvlm_mlx.app.caption.records import Record
from fastvlm_mlx.app.caption.xmp_sidecars import XMPSidecars
from tests.app.caption.test_xmp import DARKTABLE, rest
from tests.support.captions import captions_by
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]
DEFAULT = 'lang="x-default"'


@pytest.fixture
def answered(caption, monkeypatch):
    """`caption` with a model that gives one answer to all images."""
    answer = ["A cat, a dog."]

    def given(captioner: Captioner, pixels: np.ndarray) -> Caption:
        return Caption(answer[0], "stop")

    monkeypatch.setattr(Captioner, "captions", captions_by(given))

    def call(*arguments: object, says: str = answer[0], code: int = 0) -> str:
        answer[0] = says
        return caption(*arguments, "--xmp", code=code)[1]

    return call


def read(path: Path) -> dict:
    image = pyexiv2.Image(str(path))
    try:
        return image.read_xmp()
    finally:
        image.close()


@pytest.fixture
def few(folder) -> Path:
    """Three images, 1.png to 3.png."""
    for seed in range(4, 13):
        (folder / f"{seed}.png").unlink()
    return folder


def test_three_presets_fill_one_file(few, answered):
    err = answered(few, "--preset", "alt-text", says="The image shows a cat.")
    assert err.startswith("3 images captioned")
    answered(few, "--preset", "tags", says="Cat, dog")
    answered(few, "--preset", "title", says="A Cat.")
    assert len(list(few.glob("*.png.xmp"))) == 3
    assert read(few / "3.png.xmp") == {
        "Xmp.dc.description": {DEFAULT: "A cat."},
        "Xmp.dc.subject": ["cat", "dog"],
        "Xmp.dc.title": {DEFAULT: "A Cat"},
    }
    assert not [name for name in os.listdir(few) if name.startswith(".")]


def test_what_is_there_stays_and_overwrite_replaces_texts(few, answered):
    answered(few, "-p", "What?", says="One\nand two.")
    path = few / "1.png.xmp"
    assert read(path)["Xmp.dc.description"] == {DEFAULT: "One\nand two."}
    (few / "2.png.xmp").unlink()
    err = answered(few, says="Else")
    assert err.startswith("2 of 3 images have captions already\n1 image captioned")
    assert read(path)["Xmp.dc.description"] == {DEFAULT: "One\nand two."}
    answered(few, "--overwrite", says="Else")
    assert read(path)["Xmp.dc.description"] == {DEFAULT: "Else"}
    answered(few, "--preset", "tags", says="cat")
    answered(few, "--preset", "tags", "--overwrite", says="Cat, dog")
    assert read(path)["Xmp.dc.subject"] == ["cat", "dog"]


def test_a_file_of_another_program_is_filled_in(few, answered):
    path = few / "3.png.xmp"
    path.write_text(DARKTABLE, encoding="utf-8")
    path.chmod(0o600)
    before = read(path)
    answered(few, "--preset", "caption", says="A dog.")
    answered(few, "--preset", "tags", says="grass")  # has tags: they stay
    answered(few, "--preset", "title", says="No")
    after = read(path)
    assert after.pop("Xmp.dc.description") == {DEFAULT: "A dog."}
    assert after == before
    assert rest(path.read_bytes()) == rest(DARKTABLE.encode())
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["<!DOCTYPE a><a/>", "not XML", "<a/>"])
def test_a_file_that_cannot_be_merged_is_left(folder, answered, content):
    path = folder / "4.png.xmp"
    path.write_text(content)
    err = answered(folder, code=1)
    assert err.startswith("11 images captioned") and err.count("\nerror: ") == 1
    assert f"error: {path}: " in err
    assert "; it stays as it is: move it away, or use -o FILE\n" in err
    assert path.read_text() == content


def test_which_name(folder, answered):
    """1.xmp is that of 1.png, if no other image is called so; raw files have one."""
    for name in ("1.xmp", "2.xmp", "3.xmp", "4.xmp"):
        (folder / name).write_text(DARKTABLE, encoding="utf-8")
    (folder / "2.cr2").write_bytes(b"raw")
    make_image(50).save(folder / "3.jpg")
    (folder / "4.png.xmp").touch()
    (folder / "5.xmp").mkdir()
    answered(folder, says="New", code=1)
    assert "Xmp.dc.description" in read(folder / "1.xmp")
    assert not (folder / "1.png.xmp").exists()
    for name in ("2.png.xmp", "3.png.xmp", "3.jpg.xmp", "4.png.xmp"):
        assert read(folder / name)["Xmp.dc.description"] == {DEFAULT: "New"}
    for name in ("2.xmp", "3.xmp", "4.xmp"):
        assert (folder / name).read_text(encoding="utf-8") == DARKTABLE


def test_what_appeared_meanwhile_stays(folder, monkeypatch):
    image = str(folder / "1.png")
    output = XMPSidecars([image], "description", overwrite=False)
    output.begin()
    output.check(image)
    record = Record(image, "m", "p", caption="A cat.", finish_reason="stop")
    other = XMPSidecars([image], "description", overwrite=False)
    output.write(record)
    with pytest.raises(sidecars.NoPlace, match="got a description meanwhile"):
        other.write(record)
    XMPSidecars([image], "description", overwrite=True).write(record)


def test_a_full_disk_loses_nothing(few, answered, monkeypatch):
    path = few / "1.png.xmp"
    path.write_text(DARKTABLE, encoding="utf-8")

    def full(place: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastvlm_mlx.app.caption.xmp_sidecars.write_beside", full)
    err = answered(few, code=1)
    assert "no space left on device; free some space" in err
    assert path.read_text(encoding="utf-8") == DARKTABLE


@pytest.mark.parametrize(
    "other", [("-o", "a.jsonl"), ("-o", "-"), ("--format", "txt"), ("--schema", "s")]
)
def test_two_outputs_are_refused(folder, answered, other):
    assert answered(folder, *other, code=2) == (
        f"error: --xmp: writes texts and tags beside each image; leave out {other[0]},"
        " or --xmp\n"
    )


def test_an_address_has_no_place(answered):
    err = answered("https://example.org/a.png", code=1)
    assert err == (
        "error: https://example.org/a.png: has no place for an .xmp; use -o FILE\n"
    )


def test_a_page_of_a_file_fails_alone(few, answered):
    page = make_image(1)
    page.save(few / "report.pdf", "PDF", save_all=True, append_images=[page])
    err = answered(few, code=1)
    assert err.startswith("3 images captioned") and "2 failed:" in err
    assert "report.pdf#page=2: only a whole file has an .xmp; use -o FILE\n" in err
    assert len(list(few.glob("*.xmp"))) == 3
