"""PNGs with chunks that do not decide their pixels: large, damaged or unknown."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.processing.image_file import open_image, size_of
from fastvlm_mlx.processing.png_chunks import pixels_only
from tests.support.image_bytes import png_chunk, png_of, png_with
from tests.support.small_images import encoded, noise, refused

IMAGE = noise(9, 7)
LARGE = bytes(3 << 20)

SKIPPED = {
    "profile": png_chunk(b"iCCP", b"display\0\0" + zlib.compress(LARGE)),
    "packed text": png_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LARGE)),
    "bomb": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(80 << 20), 9)),
    "text": png_chunk(b"tEXt", b"prompt\0" + b"x" * len(LARGE)),
    "long text": png_chunk(
        b"iTXt", b"a\0\1\0en\0\0" + zlib.compress(b"x" * len(LARGE))
    ),
    "many texts": b"".join(
        png_chunk(b"zTXt", b"%d\0\0" % n + zlib.compress(bytes(1 << 20)))
        for n in range(70)
    ),
    "unknown packing": png_chunk(b"iCCP", b"display\0\7" + bytes(9)),
    "short": b"".join(
        png_chunk(kind, b"")
        for kind in (b"iCCP", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"tRNS", b"eXIf")
    ),
    "animation": png_chunk(b"acTL", b"\0") + png_chunk(b"fcTL", b"\0" * 3),
    "large exif": png_chunk(b"eXIf", LARGE),
    "orientation bomb": png_chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(LARGE)
    ),
}


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize("name", SKIPPED)
def test_chunks_that_are_not_needed_do_no_harm(name, at_end, tmp_path):
    data = png_with(IMAGE, SKIPPED[name], at_end=at_end)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert open_image(data).tobytes() == IMAGE.tobytes()
    assert open_image(path).tobytes() == IMAGE.tobytes()
    assert size_of(data, ["PNG"]) == IMAGE.size


@pytest.mark.parametrize(
    "kind", [b"tEXt", b"iCCP", b"eXIf", b"tRNS", b"gAMA", b"prVt", b"tIME", b"bKGD"]
)
def test_wrong_checksums_of_chunks_that_are_not_needed(kind):
    data = png_with(IMAGE, png_chunk(kind, b"Software\0ImageReady", bad_crc=True))
    assert open_image(data).tobytes() == IMAGE.tobytes()
    assert size_of(data, ["PNG"]) == IMAGE.size


def test_wrong_checksums_of_chunks_that_are_needed_are_refused():
    palette = png_chunk(b"PLTE", bytes(6), bad_crc=True)
    data = png_of(1, 3, [b"\xf0"], palette)
    fault = refused(data, f"image of {len(data)} bytes")
    assert fault == "the header is damaged; save it again as PNG or JPEG"


def test_the_orientation_is_kept():
    exif = Image.Exif()
    exif[0x0112] = 3
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    hexadecimal = (b"Exif\0\0" + body).hex().encode()
    profile = b"\nexif\n%8d\n" % len(b"Exif\0\0" + body) + hexadecimal + b"\n"
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="3"/>'
    turned = IMAGE.transpose(Image.Transpose.ROTATE_180)
    for chunk in (
        png_chunk(b"eXIf", body),
        png_chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)),
    ):
        for at_end in (False, True):
            data = png_with(IMAGE, chunk, at_end=at_end)
            assert open_image(data).tobytes() == turned.tobytes(), chunk


@pytest.mark.parametrize(
    ("depth", "row", "value"),
    [(1, 0b10000000, 1), (2, 0b01000000, 1), (4, 0b01000000, 4), (8, 7, 7)],
)
def test_a_transparent_grey_value_of_few_bits_is_white(depth, row, value):
    white = png_chunk(b"tRNS", bytes((0, value)))
    plain = np.asarray(open_image(png_of(depth, 0, [bytes((row, 0))])))
    opened = np.asarray(open_image(png_of(depth, 0, [bytes((row, 0))], white)))
    assert opened[0, 0].tolist() == [255] * 3
    assert (
        opened[0, 1:].tolist() == plain[0, 1:].tolist() == [[0] * 3] * (16 // depth - 1)
    )


def test_transparent_values_of_16_bits_are_white():
    rows = [np.array([[257, 1000, 65535, 40000]], ">u2").tobytes()]
    opened = open_image(png_of(16, 0, rows, png_chunk(b"tRNS", b"\x03\xe8")))
    assert np.asarray(opened)[0, :, 0].tolist() == [1, 255, 255, 156]
    rows = [np.array([[0, 257, 514, 9000, 257, 514]], ">u2").tobytes()]
    key = png_chunk(b"tRNS", np.array([0, 257, 514], ">u2").tobytes())
    opened = np.asarray(open_image(png_of(16, 2, rows, key)))
    assert opened[0].tolist() == [[255, 255, 255], [35, 1, 2]]


def test_what_is_no_chunk_is_passed_on_as_it_is():
    data = encoded(IMAGE, "PNG")
    for end in range(8, len(data), 7):
        assert pixels_only(io.BytesIO(data[:end])).read() == data[:end]
    junk = data[:33] + b"\0\0\0\1 no!" + data[33:]
    assert pixels_only(io.BytesIO(junk)).read() == junk


def test_parts_of_a_file_are_one_file():
    text = png_chunk(b"tEXt", b"Software\0x")
    data = png_with(IMAGE, text, png_chunk(b"PLTE", bytes(6)), text)
    wanted = data.replace(text, b"")
    file = pixels_only(io.BytesIO(data))
    assert file.read() == wanted
    for offset in (0, 7, 40, len(wanted) - 1):
        assert file.seek(offset) == offset and file.tell() == offset
        assert file.read(5) == wanted[offset : offset + 5]
    assert file.seek(-4, io.SEEK_END) == len(wanted) - 4 and file.read() == wanted[-4:]
    assert file.read(1) == b""
