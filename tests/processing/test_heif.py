"""HEIC and AVIF images come out as the image that they were made from."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image, features

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import heif
from fastvlm_mlx.processing.image_file import open_image, size_of
from fastvlm_mlx.processing.image_suffixes import foreign_suffixes, opened_suffixes
from tests.support.missing_extras import pretend_missing
from tests.support.small_images import encoded, psnr, refused

ORIENTATION = 0x0112
FORMATS = ("PNG", "JPEG", heif.FORMAT)


def blocks(width: int = 96, height: int = 64, channels: int = 3) -> Image.Image:
    """Squares of 16 pixels of random colours: a codec keeps them well."""
    rng = np.random.default_rng(7)
    small = rng.integers(0, 256, (height // 16, width // 16, channels), dtype=np.uint8)
    return Image.fromarray(small.repeat(16, axis=0).repeat(16, axis=1))


def heic(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    heif_file = pillow_heif.from_bytes(image.mode, image.size, image.tobytes())
    heif_file.save(file, quality=95, chroma=444, **options)
    return file.getvalue()


def brands(major: bytes, *others: bytes) -> bytes:
    body = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(900)


def test_a_photo_is_what_it_was_made_from(tmp_path):
    image = blocks()
    path = tmp_path / "phone.HEIC"
    path.write_bytes(heic(image))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        opened = open_image(source)
        assert (opened.mode, opened.size) == ("RGB", (96, 64))
        assert psnr(opened, image) > 35
    assert size_of(path.read_bytes(), FORMATS) == (96, 64)


def test_the_plug_in_is_not_registered_with_pillow():
    open_image(heic(blocks()))
    with pytest.raises(OSError):
        Image.open(io.BytesIO(heic(blocks())))


@pytest.mark.parametrize("held", range(1, 9))
def test_the_orientation_is_applied_once(held):
    image = blocks()
    exif = Image.Exif()
    exif[ORIENTATION] = held
    # What a JPEG of this orientation shows; ImageOps and ours agree on those.
    upright = open_image(encoded(image, "PNG", exif=exif))
    # Written to the container too, as an iPhone does: that is the one to follow.
    data = heic(image, exif=exif.tobytes())
    assert b"Exif" in data and (b"irot" in data or b"imir" in data or held == 1)
    assert psnr(open_image(data), upright) > 35
    if features.check("avif"):
        data = encoded(image, "AVIF", quality=95, subsampling="4:4:4", exif=exif)
        assert psnr(open_image(data), upright) > 30


def test_alpha_is_flattened_onto_white():
    image = blocks(channels=4)
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    white = Image.new("RGB", image.size, "white")
    white.paste(image, (0, 0), image)
    assert psnr(open_image(heic(image)), white) > 35
    if features.check("avif"):
        data = encoded(image, "AVIF", quality=95, subsampling="4:4:4")
        assert psnr(open_image(data), white) > 30


def test_ten_bits_become_eight():
    image = blocks()
    deep = (np.asarray(image).astype(np.uint16) << 8) | 0x80
    file = pillow_heif.from_bytes("RGB;16", image.size, deep.tobytes())
    data = io.BytesIO()
    file.save(data, quality=95, chroma=444)
    assert pillow_heif.open_heif(data.getvalue()).info["bit_depth"] in (10, 12)
    assert psnr(open_image(data.getvalue()), image) > 35


def test_grey():
    image = blocks().convert("L")
    assert psnr(open_image(heic(image)), image.convert("RGB")) > 35


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_an_avif_is_opened_by_pillow_itself(monkeypatch):
    pretend_missing(monkeypatch, "pillow_heif")
    data = encoded(blocks(), "AVIF", quality=95, subsampling="4:4:4")
    assert psnr(open_image(data), blocks()) > 30


@pytest.mark.parametrize(
    "data",
    [
        brands(b"heic", b"mif1", b"heic"),
        brands(b"heix"),
        brands(b"msf1", b"hevc"),
        brands(b"wxyz", b"mif1", b"heic"),
    ],
)
def test_without_the_extra_one_line_says_which(data, monkeypatch, tmp_path):
    path = tmp_path / "photo.jpg"  # the content counts, not the suffix
    path.write_bytes(data)
    assert refused(path).startswith("damaged or unsupported (HEIC: ")
    pretend_missing(monkeypatch, "pillow_heif")
    said = refused(path)
    assert said.startswith("a HEIC image, which needs pillow-heif; ")
    assert "pip install" in said and "'pillow-heif>=1.8'" in said
    with pytest.raises(ImageError, match="a HEIC image, which needs pillow-heif"):
        size_of(data, FORMATS)


def test_a_reader_that_does_not_ask_for_heic_is_told_what_it_is():
    with pytest.raises(ImageError, match="a HEIC image, which is not opened here; sav"):
        size_of(heic(blocks()), ("PNG", "JPEG"))


def test_suffixes_follow_what_is_installed(monkeypatch):
    assert {".heic", ".hif"} <= opened_suffixes()
    assert (".avif" in opened_suffixes()) == ("avif" in features.get_supported())
    pretend_missing(monkeypatch, "pillow_heif")
    assert {".heic", ".hif"} <= foreign_suffixes()
    assert not opened_suffixes() & foreign_suffixes()


def test_half_a_file_and_a_false_size_are_refused():
    data = heic(blocks(640, 640))
    assert refused(data[: len(data) // 2], f"image of {len(data) // 2} bytes")
    # A header that names a small image, and a large one behind it.
    small = data.replace(struct.pack(">II", 640, 640), struct.pack(">II", 16, 16))
    assert small != data and "damaged" in refused(small, f"image of {len(data)} bytes")


def test_the_limit_on_pixels_holds_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr("fastvlm_mlx.processing.image_file.MAX_PIXELS", 5000)
    data = heic(blocks())
    assert "96x64 is more than" in refused(data, f"image of {len(data)} bytes")
