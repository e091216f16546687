"""Files that are not opened: the message says what they are and what to do."""

import bz2
import gzip
import lzma
import struct

import pytest
from PIL import Image, features

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import image_signature
from fastvlm_mlx.processing.image_file import open_image, size_of
from tests.support.small_images import encoded, noise, refused

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def brands(major: bytes, *others: bytes) -> bytes:
    body = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(900)


FILES = {
    "video": (brands(b"isom", b"iso2", b"mp41"), "a video or an unknown image"),
    "CR3": (brands(b"crx ", b"isom"), "a camera's RAW file; export it from"),
    "JXL": (b"\xff\x0a" + bytes(60), "a JPEG XL image; convert it: `djxl"),
    "JXL file": (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image; convert it: `djxl"),
    "RAF": (b"FUJIFILMCCD-RAW 0201", "a camera's RAW file; export it"),
    "ORF": (b"IIRO\x08\0\0\0", "a camera's RAW file; export it"),
    "RW2": (b"IIU\0\x18\0\0\0", "a camera's RAW file; export it"),
    "CRW": (b"II\x1a\0\0\0HEAPCCDR", "a camera's RAW file; export it"),
    "SVG": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="x"/>', "an SVG, not"),
    "SVG, prefixed": (b"\xef\xbb\xbf<svg:svg/>", "an SVG, not an image of pixels; "),
    "SVG, UTF-16": ("\ufeff<svg />".encode("utf-16-le"), "an SVG, not an image of"),
    "page": (b"\n\n <!DOCTYPE html><p>404", "a web page or an SVG, not an image"),
    "AVI": (b"RIFF\0\0\0\0AVI LIST", "a video; save a frame of it as PNG"),
    "WebM": (b"\x1a\x45\xdf\xa3\x01", "a video; save a frame of it as PNG"),
    "WAV": (b"RIFF\0\0\0\0WAVEfmt ", "a sound; give an image"),
    "WebP": (b"RIFF\0\0\0\0WEBP", "the header is damaged; save it again"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not"),
    "gzip": (gzip.compress(b"<svg/>"), "packed with gzip; unpack it first: `gunzip`"),
    "bzip2": (bz2.compress(b"x"), "packed with bzip2; unpack it first"),
    "xz": (lzma.compress(b"x"), "packed with xz; unpack it first"),
    "EXR": (b"\x76\x2f\x31\x01\2", "an OpenEXR image, which is not opened here; save"),
    "HDR": (b"#?RADIANCE\n", "a Radiance HDR image, which is not opened here; save"),
    "DICOM": (bytes(128) + b"DICM", "a DICOM image, which is not opened here; save"),
    "CgBI": (
        b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI\x50\0\x20\2" + bytes(99),
        "a PNG made for iOS apps (CgBI); convert it: `pngcrush -revert",
    ),
    "text": (b"words", "not an image; give a PNG, JPEG, WebP or another format"),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "heic", "txt"])
@pytest.mark.parametrize("name", FILES)
def test_files_that_pillow_does_not_know(name, suffix, tmp_path):
    data, fault = FILES[name]
    path = tmp_path / f"a.{suffix}"  # the content counts, not the suffix
    path.write_bytes(data)
    said = refused(path)
    assert said.startswith(fault)
    # A server, which reads the header first, says the same.
    with pytest.raises(ImageError) as caught:
        size_of(data, FORMATS)
    assert str(caught.value) == f"image of {len(data)} bytes: {said}"


def test_an_avif_that_pillow_cannot_open(monkeypatch):
    data = brands(b"avif", b"mif1")
    monkeypatch.setattr(image_signature.features, "check", lambda name: False)
    file = "an AVIF image, which needs a newer Pillow; .*pip install.* --upgrade pillow"
    with pytest.raises(ImageError, match=file):
        size_of(data, ["PNG"])


@pytest.mark.parametrize(
    ("format", "kind"),
    [
        ("ICO", "an icon (ICO)"),
        ("JPEG2000", "a JPEG 2000 image"),
        ("DDS", "a DirectDraw surface (DDS)"),
        ("PPM", "a portable anymap (PNM) or a damaged one"),
        ("PCX", "a PCX image"),
        ("TGA", "a Targa image (TGA)"),
    ],
)
def test_formats_that_only_a_server_refuses(format, kind):
    if format == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("Pillow without JPEG 2000")
    data = encoded(noise(16, 16), format)
    assert open_image(data).size == (16, 16)
    with pytest.raises(ImageError) as caught:
        size_of(data, FORMATS)
    fault = f"{kind}, which is not opened here; save it as PNG or JPEG"
    assert str(caught.value) == f"image of {len(data)} bytes: {fault}"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_of_a_server(format):
    if format == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow without WebP")
    data = encoded(noise(16, 12), format)
    assert size_of(data, FORMATS) == (16, 12)


def test_windows_metafiles():
    for head, kind in (
        (b"\xd7\xcd\xc6\x9a" + bytes(80), "WMF"),
        (b"\1\0\0\0" + bytes(36) + b" EMF" + bytes(80), "EMF"),
    ):
        with pytest.raises(ImageError, match=rf"{kind}\), a drawing without pixels"):
            size_of(head, FORMATS)


def test_stubs_of_pillow_are_named():
    data = b"\x89HDF\r\n\x1a\n" + bytes(64)
    fault = refused(data, f"image of {len(data)} bytes")
    assert fault == "HDF5 is not opened; save it as PNG"
    assert Image.MAX_IMAGE_PIXELS is not None


def targa(kind: int, depth: int, *, palette: int = 0, order: int = 0) -> bytes:
    size = struct.pack("<HHB", 0, 256 * palette, 24 * palette)
    frame = struct.pack("<HHHHBB", 0, 0, 5, 4, depth, order)
    return bytes([0, palette, kind]) + size + frame + bytes(200)


@pytest.mark.parametrize(
    "data",
    [
        *(targa(2, 15), targa(2, 24), targa(2, 32, order=0x28), targa(3, 8)),
        *(targa(1, 8, palette=1), targa(9, 8, palette=1), targa(10, 24), targa(11, 8)),
        *(targa(2, 24)[:18], b"\x05" + targa(2, 16)[1:]),
    ],
)
def test_targa_images(data):
    with pytest.raises(ImageError, match=r": a Targa image \(TGA\), which is not"):
        size_of(data, FORMATS)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\2\0\1\0\x20\x20\0\0\1\0\1\0\x18\0\x18\0" + bytes(99), "a cursor"),
        (b"\0\0\1\0\1\0\x20\x20\0\0\1\0\1\0\x18\0\x18\0" + bytes(99), "an icon"),
        (targa(2, 24)[:17], "a cursor"),
        (targa(2, 24)[:12] + b"\0\0" + targa(2, 24)[14:], "a cursor"),
        (targa(2, 24)[:14] + b"\0\0" + targa(2, 24)[16:], "a cursor"),
        (targa(2, 23), "a cursor"),
        (targa(2, 24, order=0x40), "a cursor"),
        (targa(4, 24), "not an image"),
        (targa(2, 24, palette=2), "not an image"),
    ],
)
def test_what_is_no_targa_image(data, kind):
    with pytest.raises(ImageError, match=f": {kind}"):
        size_of(data, FORMATS)
