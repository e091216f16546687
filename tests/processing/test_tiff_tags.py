"""What a TIFF's tags say, tag by tag."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from fastvlm_mlx.processing import tiff_kind
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.tiff_kind import Samples, samples, unsupported
from tests.support.image_bytes import tiff
from tests.support.small_images import noise


@pytest.mark.parametrize(
    ("value", "first"),
    [(7, 7), ((7, 8), 7), ((), 5), ("7", 5), (1.5, 5), ((None, 7), 5), (0, 0)],
)
def test_the_first_number_of_a_tag(value, first):
    assert tiff_kind._first({9: value}, 9, 5) == first
    assert tiff_kind._first({8: value}, 9, 5) == 5


@pytest.mark.parametrize(
    ("tags", "full"),
    [
        ({530: (1, 1)}, True),
        ({530: (2, 2)}, False),
        ({530: (2, 1), 279: 10**6}, False),
        ({279: 4 * 6 * 3}, True),
        ({279: 4 * 6 * 3 - 1}, False),
        ({279: (30, 42)}, True),
        ({279: (30, 41)}, False),
        ({}, False),
    ],
)
def test_samples_of_colour(tags, full):
    assert tiff_kind._is_full(tags, (4, 6)) is full


@pytest.mark.parametrize(
    ("tags", "raw"),
    [
        ({}, False),
        ({262: 2}, False),
        ({262: 32803}, True),
        ({262: (34892,)}, True),
        ({262: 34893}, False),
        ({50706: b"\1\4\0\0"}, True),
        ({254: 1, 330: 8}, True),
        ({254: 3, 330: 8}, True),
        ({254: 2, 330: 8}, False),
        ({254: 0, 330: 8}, False),
        ({254: 1}, False),
    ],
)
def test_a_camera_s_data(tags, raw):
    assert tiff_kind._is_raw(tags) is raw


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({}, "a TIFF of 1-bit unsigned integers, 1 per pixel, white is zero"),
        (
            {258: (16, 16), 339: (2, 2), 277: 2, 262: 1},
            "a TIFF of 16-bit signed integers, 2 per pixel, grey",
        ),
        (
            {258: 64, 339: 6, 277: 1, 262: 99, 259: 8},
            "a TIFF of 64-bit complex floats, 1 per pixel, photometric 99",
        ),
        (
            {258: 8, 339: 5, 262: 6, 259: 1},
            "a TIFF of 8-bit complex integers, 1 per pixel, YCbCr",
        ),
        (
            {258: 8, 339: 4, 277: 3, 262: 32845, 284: 2, 259: 999},
            "a TIFF of 8-bit samples of unknown kind, 3 per pixel, LogLuv, in separate"
            " planes, of compression 999",
        ),
    ],
)
def test_the_name_of_a_kind(tags, kind):
    assert tiff_kind._kind(tags) == kind


@pytest.mark.parametrize("compression", TiffImagePlugin.COMPRESSION_INFO)
def test_compressions_that_pillow_knows_are_not_named(compression):
    assert "compression" not in tiff_kind._kind({259: compression})


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_what_grey_values_mean():
    assert samples(noise(3, 3)) == samples(noise(3, 3).convert("L")) == Samples()
    cases = [
        ("u1", 1, Samples(8)),
        ("u1", 0, Samples(8)),  # Pillow inverts these itself
        ("<u2", 1, Samples(16)),
        ("<u2", 0, Samples(16, inverted=True)),
        ("<i2", 1, Samples(16, signed=True)),
        ("<i4", 1, Samples(32, signed=True)),
        ("<f4", 1, Samples(32)),
    ]
    for dtype, photometric, wanted in cases:
        image = opened(tiff(np.zeros((2, 2), dtype), photometric))
        assert samples(image) == wanted, (dtype, photometric)


def big_tiff(bits: int) -> bytes:
    """A TIFF with 64-bit places, of one pixel of floats that Pillow does not open."""
    tags = [(256, 3, 2), (257, 3, 2), (258, 3, bits), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 16), (277, 3, 1), (278, 3, 2), (279, 4, bits // 2), (339, 3, 3)]
    places = struct.pack("<Q", len(tags))
    for tag, kind, value in tags:
        number = struct.pack("<" + ("H" if kind == 3 else "I"), value)
        places += struct.pack("<HHQ", tag, kind, 1) + number.ljust(8, b"\0")
    pixels = bytes(bits // 2)
    start = b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(pixels))
    return start + pixels + places + bytes(8)


def test_the_large_form_is_named_too():
    fault = unsupported(io.BytesIO(big_tiff(64)))
    assert fault.startswith("a TIFF of 64-bit floats, 1 per pixel, grey, which is not")
    assert fault.endswith("; save it again as an 8-bit TIFF or as PNG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"II*",
        b"PK\3\4" + bytes(60),
        b"II*\0" + bytes(60),
        tiff(np.zeros((2, 2), "<f8"), 1, tags={256: ("I", [0])}),
        tiff(np.zeros((2, 2), "<f8"), 1, tags={257: ("I", [0])}),
    ],
)
def test_files_that_are_of_no_kind(data):
    assert unsupported(io.BytesIO(data)) == ""


@pytest.mark.parametrize(
    ("largest", "shown"), [(255, 255), (256, 1), (65535, 255), (1, 1)]
)
def test_a_palette_of_8_bits_has_no_value_above_255(largest, shown):
    values = [0] * 768
    values[1] = largest
    image = open_image(tiff(np.ones((2, 2), "u1"), 3, tags={320: ("H", values)}))
    assert image.getpixel((0, 0)) == (shown, 0, 0)


def test_libtiff_reads_one_image_only():
    before = TiffImagePlugin.READ_LIBTIFF
    pixels = np.arange(12, dtype="<u2").reshape(2, 2, 3) * 257
    image = open_image(tiff(pixels, 2, planar=2))
    assert np.asarray(image).tolist() == np.arange(12).reshape(2, 2, 3).tolist()
    assert before == TiffImagePlugin.READ_LIBTIFF


def test_what_is_decoded_already_is_left_alone():
    image = opened(tiff(np.zeros((2, 2, 3), "u1"), 2, tags={50706: ("B", [1] * 4)}))
    assert tiff_kind.prepare(image).startswith("a camera's RAW")
    image.load()
    assert tiff_kind.prepare(image) == ""
    assert tiff_kind.prepare(noise(2, 2)) == ""
