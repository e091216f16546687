"""Bad images, each refused in one line: the source, the fault, the way out."""

import errno
import io
import os
import struct
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image, features

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import image_file, image_source
from fastvlm_mlx.processing.image_file import open_image
from tests.support.small_images import encoded, noise, refused


def png(width: int, height: int, *, data: bytes = b"", bad_crc: bool = False) -> bytes:
    """A PNG's header and, with `data`, its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body) ^ (bad_crc and kind == b"IHDR")
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bmp_header(width: int, height: int) -> bytes:
    start = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54)
    return start + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def gif_header(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0, 0, 0)
        + (b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\0;")
    )


def broken(format: str, share: float) -> bytes:
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    data = encoded(noise(64, 64), format)
    return data[: int(len(data) * share)]


# Files

NOT_IMAGES = {
    "empty.png": (b"", "the file is empty; give an image"),
    "text.png": (b"Not an image at all.\n", "not an image; give a PNG"),
    "page.jpg": (b"<!DOCTYPE html><p>404", "a web page or an SVG"),
    "drawing.svg": (b'<svg xmlns="x"/>', "an SVG, not an image of pixels; ex"),
    "paper.pdf": (b"%PDF-1.7\n%abc", "a damaged PDF, or one without"),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "damaged or unsupported"),
    "film.mp4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "a video or an unknown"),
    "zeros.bin": (bytes(4096), "not an image; give a PNG"),
    "tensors.jpg": (b"\x08\0\0\0\0\0\0\0{}      ", "not an image; give a PNG"),
    "archive.png": (b"PK\3\4" + bytes(60), "a ZIP archive or an Office document; g"),
    "one-byte.png": (b"\x89", "not an image; give a PNG"),
    "signature.png": (b"\x89PNG\r\n\x1a\n", ""),
    "crc.png": (png(8, 8, bad_crc=True), "the header is damaged; save it again"),
    "no-data.png": (png(8, 8), "damaged or unsupported ("),
    "bad-zlib.png": (png(8, 8, data=b"garbage" * 9), "damaged or unsupported ("),
    "zero.png": (png(0, 0, data=zlib.compress(b"")), ""),
    "start.jpg": (b"\xff\xd8\xff", ""),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "stub.h5": (b"\x89HDF\r\n\x1a\n" + bytes(64), ""),
    "tags.tif": (b"II*\0\xff\xff\xff\x7f" + bytes(9), ""),
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_not_a_image(name: str, tmp_path: Path):
    content, fault = NOT_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert refused(path).startswith(fault)
    assert refused(content, f"image of {len(content)} bytes").startswith(fault)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated(format: str, share: float, tmp_path: Path):
    path = tmp_path / f"truncated.{format.lower()}"
    path.write_bytes(broken(format, share))
    refused(path)


BOMBS = {
    "bomb.png": png(60_000, 60_000, data=zlib.compress(bytes(100))),
    "just-over.png": png(20_000, 10_001),
    "long.png": png(1, 70_000, data=zlib.compress(bytes(4 * 70_000))),
    "bomb.bmp": bmp_header(40_000, 40_000),
    "bomb.gif": gif_header(65_535, 65_535),
    "bomb.ppm": b"P6 99999 99999 255\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bombs_stop_at_the_header(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(BOMBS[name])
    started = time.perf_counter()
    assert "than 200 megapixels" in refused(path)
    assert time.perf_counter() - started < 1


def test_the_limit_is_ours_and_pillow_s_is_restored(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = encoded(noise(20, 20), "PNG")
    assert open_image(data).size == (20, 20)
    assert Image.MAX_IMAGE_PIXELS == 50
    monkeypatch.setattr(image_file, "MAX_PIXELS", 399)
    assert "20x20 is more than" in refused(data, f"image of {len(data)} bytes")
    assert "20x20 is more than" in refused(noise(20, 20), "image")


# Paths


def test_missing(tmp_path: Path):
    assert refused(tmp_path / "cat.png") == "no such file; check the path"
    assert refused("cat.png") == "no such file; check the path"
    assert refused("", "''").startswith("is a folder")


def test_folder(tmp_path: Path):
    assert refused(tmp_path) == "is a folder; give an image in it"


def test_file_as_a_folder(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    assert refused(tmp_path / "a.png" / "b.png").endswith("; check the path")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(noise(4, 4), "PNG"))
    path.chmod(0)
    assert refused(path) == "Permission denied; check the path"


def test_strange_paths(tmp_path: Path):
    link = tmp_path / "link.png"
    link.symlink_to(link)
    assert refused(link).endswith("; check the path")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    assert refused(tmp_path / "dangling.png") == "no such file; check the path"
    assert refused("nul\0byte.png", "nul\\x00byte.png").endswith("; check the path")
    assert refused("two\nlines.png", "two\\nlines.png").endswith("; check the path")
    assert refused("half\ud800.png", "half\\ud800.png").endswith("; check the path")
    assert refused("~nobody-here/a.png").endswith("; check the path")
    long = "a" * 5000
    assert refused(long, f"{'a' * 150}...{'a' * 40}").endswith("; check the path")


def test_endless_device(monkeypatch):
    monkeypatch.setattr(image_source, "MAX_BYTES", 1 << 20)
    assert refused("/dev/zero") == "more than 1 MB; save a smaller image"
    assert refused("/dev/null") == "the file is empty; give an image"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="no /proc")
def test_a_read_error_names_the_file(tmp_path: Path):
    fault = "cannot be read (Input/output error); check the file and its disk"
    assert refused("/proc/self/mem") == fault


@pytest.mark.parametrize("after", [0, 1, 40, 200])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "GIF"])
def test_a_read_error_in_the_middle(format: str, after: int, tmp_path, monkeypatch):
    """A disk that fails is not a damaged image."""
    path, data = tmp_path / "a.img", encoded(noise(64, 64), format)
    path.write_bytes(data)

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if self.tell() > after:
                raise OSError(errno.EIO, "Input/output error")
            return data

    monkeypatch.setattr(Path, "open", lambda *_, **__: Failing(data))
    fault = "cannot be read (Input/output error); check the file and its disk"
    assert refused(path) == fault


def test_too_little_memory(monkeypatch):
    def new(*_, **__):
        raise MemoryError

    data = encoded(noise(4, 4).convert("RGBA"), "PNG")
    monkeypatch.setattr(Image, "new", new)
    fault = refused(data, f"image of {len(data)} bytes")
    assert fault == "too large for the memory that is free; scale it down first"


# Standard input


def test_standard_input(monkeypatch):
    cases = {b"": "the file is empty", b"words": "not an image", bytes(2000): "more t"}
    monkeypatch.setattr(image_source, "MAX_BYTES", 1000)
    for content, fault in cases.items():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert refused("-", "standard input").startswith(fault)
    sys.stdin.close()
    assert "closed" in refused("-", "standard input")
    monkeypatch.setattr(sys, "stdin", None)
    assert refused("-", "standard input").startswith("nothing is piped in")


def test_standard_input_of_just_the_limit(monkeypatch):
    data = encoded(noise(4, 4), "PNG")
    for limit in (len(data), len(data) - 1):
        monkeypatch.setattr(image_source, "MAX_BYTES", limit)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        if limit == len(data):
            assert open_image("-").size == (4, 4)
        else:
            assert refused("-", "standard input").startswith("more than")


def test_standard_input_is_a_terminal(monkeypatch):
    leader, follower = os.openpty()
    with open(follower, "rb", buffering=0) as raw, open(leader, "wb", buffering=0):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw)))
        assert refused("-", "standard input").startswith("nothing is piped in")


# Objects


def test_objects_that_are_no_source():
    for value in (None, 7, [1], object()):
        assert "not an image; give a path" in refused(value, type(value).__name__)


def test_images_of_the_caller():
    assert "the image is 0x5" in refused(Image.new("RGB", (0, 5)), "image")
    closed = Image.open(io.BytesIO(encoded(noise(9, 9), "PNG")))
    closed.close()
    refused(closed, "image")
    cut = Image.open(io.BytesIO(broken("PNG", 0.5)))
    refused(cut, "image")


def test_the_message_says_which(tmp_path: Path):
    with pytest.raises(ImageError, match="gone.png: no such file"):
        open_image(tmp_path / "gone.png")
