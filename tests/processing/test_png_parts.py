"""What is left of a PNG's chunks, byte by byte, and the file that is made of them."""

import io
import struct
import zlib

import pytest

from fastvlm_mlx.processing import png_chunks
from fastvlm_mlx.processing.png_chunks import pixels_only
from tests.support.image_bytes import png_chunk

SIGNATURE = b"\x89PNG\r\n\x1a\n"
DATA, END = png_chunk(b"IDAT", b"pixels"), png_chunk(b"IEND", b"")


def header(depth: int, colour: int) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, depth, colour, 0, 0, 0))


def left(*chunks: bytes, head: bytes | None = None) -> bytes:
    """What is left between the header and the pixels."""
    head = header(8, 2) if head is None else head
    whole = SIGNATURE + head + b"".join(chunks) + DATA + END
    read = pixels_only(io.BytesIO(whole)).read()
    assert read.startswith(SIGNATURE + head) and read.endswith(DATA + END)
    return read[len(SIGNATURE + head) : -len(DATA + END)]


@pytest.mark.parametrize(
    ("depth", "colour", "body", "wanted"),
    [
        (8, 3, bytes(300), bytes(256)),
        (8, 3, bytes(256), bytes(256)),
        (4, 3, b"\1\2", b"\1\2"),
        (8, 0, b"\0\7", b"\0\7"),
        (8, 0, b"\0\7 more", b"\0\7 more"),
        (16, 0, b"\1\7", b"\1\7"),
        (8, 0, b"\0", b""),
        (1, 0, b"\0\1", b"\0\xff"),
        (1, 0, b"\0\2", b"\0\0"),
        (2, 0, b"\0\2", b"\0\xaa"),
        (2, 0, b"\0\7", b"\0\xff"),
        (4, 0, b"\0\5", b"\0\x55"),
        (4, 0, b"\0\x1f", b"\0\xff"),
        (8, 2, b"\0\1\0\2\0\3", b"\0\1\0\2\0\3"),
        (16, 2, b"\1\2\3\4\5\6", b"\0\1\0\3\0\5"),
        (8, 2, b"\0\1\0\2\0", b""),
        (8, 4, b"\0\1\0\2\0\3", b""),  # these have an alpha channel
        (8, 6, b"\0\1\0\2\0\3", b""),
    ],
)
def test_transparent_values(depth, colour, body, wanted):
    chunk = png_chunk(b"tRNS", body)
    kept = png_chunk(b"tRNS", wanted) if wanted else b""
    assert left(chunk, head=header(depth, colour)) == kept


def test_transparency_without_a_whole_header():
    short = png_chunk(b"IHDR", struct.pack(">IIB", 9, 9, 8))
    assert left(png_chunk(b"tRNS", b"\0\1\0\2\0\3"), head=short) == b""


@pytest.mark.parametrize("kind", [b"eXIf", b"tRNS"])
def test_chunks_up_to_half_a_megabyte_are_kept(kind):
    for length, kept in (((1 << 19) - 1, True), (1 << 19, True), (524_289, False)):
        chunk = png_chunk(kind, bytes(length))
        assert (left(chunk, head=header(8, 2)) == chunk) is kept


@pytest.mark.parametrize(
    ("kind", "body", "kept"),
    [
        (b"tEXt", b"Raw profile type exif\0x", True),
        (b"tEXt", b"XML:com.adobe.xmp\0x", True),
        (b"tEXt", b"Raw profile type exif x", False),
        (b"tEXt", b"Comment\0Raw profile type exif\0", False),
        (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0x", True),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0a\0" + zlib.compress(b"x"), True),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0a\0" + zlib.compress(b"x")[:-1], False),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0a\0nothing packed", False),
        (b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(b"x" * 1000), True),
        (b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(bytes(524_287)), True),
        (b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(bytes(600_000)), False),
        (b"zTXt", b"XML:com.adobe.xmp\0" + zlib.compress(b"x"), False),
    ],
)
def test_texts_of_an_orientation(kind, body, kept):
    chunk = png_chunk(kind, body)
    assert left(chunk) == (chunk if kept else b"")


def test_critical_chunks_are_kept_and_others_not():
    for kind in (b"PLTE", b"ABCD", b"AbCd"):
        assert left(png_chunk(kind, b"x")) == png_chunk(kind, b"x")
    for kind in (b"gAMA", b"tEXt", b"prVt", b"zzzz"):
        assert left(png_chunk(kind, b"x")) == b""


def test_nothing_follows_the_end():
    whole = SIGNATURE + header(8, 2) + DATA + END
    assert pixels_only(io.BytesIO(whole + b"more" + END)).read() == whole


def test_a_text_that_ends_the_file_is_a_chunk():
    whole = SIGNATURE + header(8, 2) + DATA
    text = png_chunk(b"tEXt", b"Comment\0x")
    assert pixels_only(io.BytesIO(whole + text)).read() == whole
    assert pixels_only(io.BytesIO(whole + text[:-1])).read() == whole + text[:-1]


def test_neighbours_are_read_as_one():
    parts: list = [SIGNATURE]
    png_chunks._append_range(parts, 8, 20)
    png_chunks._append_range(parts, 28, 12)
    png_chunks._append_range(parts, 41, 5)
    png_chunks._append_range(parts, 46, 1)
    assert parts == [SIGNATURE, (8, 32), (41, 6)]


def test_places_in_the_file_of_parts():
    file = png_chunks._Parts(io.BytesIO(b"0123456789"), [b"ab", (2, 3), (7, 2), b"c"])
    assert file.readable() and file.seekable()
    assert io.BufferedReader(file).read() == b"ab23478c"
    assert file.seek(0, io.SEEK_END) == 8 and file.read(1) == b""
    assert file.seek(-3, io.SEEK_CUR) == 5 and file.read(9) == b"78"
    assert file.seek(-99, io.SEEK_CUR) == 0 and file.read(1) == b"a"
    assert file.seek(2) == 2 and file.read(2) == b"23" and file.read(2) == b"4"
    assert file.seek(1, io.SEEK_CUR) == 6 and file.read(2) == b"8"
    assert file.tell() == 7 and file.read() == b"c" and file.tell() == 8
