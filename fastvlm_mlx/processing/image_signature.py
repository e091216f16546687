"""Says what a file is that is not opened as an image, and how to convert it."""

import re
from typing import BinaryIO

from PIL import features

from fastvlm_mlx.files.installation import pip_install
from fastvlm_mlx.processing import heif

_HEAD = 4096
RAW = "a camera's RAW file; export it from a photo program as JPEG or PNG"
_VIDEO = "a video; save a frame of it as PNG"
_DAMAGED = "the header is damaged; save it again as PNG or JPEG"
_LFS = "a Git LFS pointer, not the image itself; run `git lfs pull`"
_IPHONE = (
    "a PNG made for iOS apps (CgBI);"
    " convert it: `pngcrush -revert-iphone-optimizations IN.png OUT.png`"
)
_VECTOR = "{}, a drawing without pixels; export it as PNG"
_OTHER = "{}, which is not opened here; save it as PNG or JPEG"

_HEIC = _OTHER.format("a HEIC image")
# Brands of ISO base media files (HEIF, MP4), with `ftyp` before them.
_BRANDS = {**dict.fromkeys(heif.BRANDS, _HEIC), b"crx ": RAW}
_STARTS = {
    b"\xff\x0a": "a JPEG XL image; convert it: `djxl IN.jxl OUT.png`",
    b"\0\0\0\x0cJXL ": "a JPEG XL image; convert it: `djxl IN.jxl OUT.png`",
    b"FUJIFILMCCD-RAW": RAW,
    b"IIRO": RAW,  # Olympus
    b"IIRS": RAW,
    b"MMOR": RAW,
    b"IIU\0": RAW,  # Panasonic
    b"II\x1a\0\0\0HEAPCCDR": RAW,  # Canon
    b"FOVb": RAW,  # Sigma
    b"\0MRM": RAW,  # Minolta
    b"version https://git-lfs": _LFS,
    b"\x1a\x45\xdf\xa3": _VIDEO,  # Matroska, WebM
    b"FLV\1": _VIDEO,
    b"OggS": "a video or a sound; give an image",
    b"ID3": "a sound; give an image",
    b"fLaC": "a sound; give an image",
    b"PK\3\4": "a ZIP archive or an Office document; give an image in it",
    b"\x1f\x8b": "packed with gzip; unpack it first: `gunzip`",
    b"BZh": "packed with bzip2; unpack it first: `bunzip2`",
    b"\xfd7zXZ\0": "packed with xz; unpack it first: `unxz`",
    b"\x28\xb5\x2f\xfd": "packed with zstd; unpack it first: `unzstd`",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; give an image in it",
    b"Rar!": "a RAR archive; give an image in it",
    b"\xd7\xcd\xc6\x9a": _VECTOR.format("a Windows metafile (WMF)"),
    b"%!PS": _VECTOR.format("PostScript"),
    b"\xc5\xd0\xd3\xc6": _VECTOR.format("PostScript (EPS)"),
    b"AC10": _VECTOR.format("a CAD drawing (DWG)"),
    b"\x76\x2f\x31\x01": _OTHER.format("an OpenEXR image"),
    b"#?RADIANCE": _OTHER.format("a Radiance HDR image"),
    b"II\xbc\x01": _OTHER.format("a JPEG XR image"),
    b"BPG\xfb": _OTHER.format("a BPG image"),
    b"FLIF": _OTHER.format("a FLIF image"),
    b"gimp xcf": _OTHER.format("a GIMP image (XCF)"),
    # Pillow opens these; a server does not.
    b"8BPS": _OTHER.format("a Photoshop image (PSD)"),
    b"\0\0\1\0": _OTHER.format("an icon (ICO)"),
    b"\0\0\2\0": _OTHER.format("a cursor (CUR)"),
    b"icns": _OTHER.format("an icon (ICNS)"),
    b"\0\0\0\x0cjP  ": _OTHER.format("a JPEG 2000 image"),
    b"\xff\x4f\xff\x51": _OTHER.format("a JPEG 2000 image"),
    b"DDS ": _OTHER.format("a DirectDraw surface (DDS)"),
    b"SIMPLE  =": _OTHER.format("a FITS image"),
    b"qoif": _OTHER.format("a QOI image"),
    b"\x0a\x05\x01": _OTHER.format("a PCX image"),
    b"\x89HDF": _OTHER.format("an HDF5 file"),
    **dict.fromkeys(
        (b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"II+\0"),
        _DAMAGED,
    ),
}
_PORTABLE = re.compile(rb"P[1-7fF][\s#]")
_SVG = re.compile(rb"<([\w.-]+:)?svg[\s/>]")
_HTML = re.compile(rb"<(!doctype html|html)\b", re.IGNORECASE)


def describe(file: BinaryIO) -> str:
    """Fault and way out for a file that Pillow does not know, by its content."""
    file.seek(0)
    head = file.read(_HEAD)
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if head.startswith(b"RIFF"):
        if head[8:12] == b"WEBP":
            return _DAMAGED
        kinds = {b"AVI ": _VIDEO, b"WAVE": "a sound; give an image"}
        return kinds.get(head[8:12], _DAMAGED)
    if head.startswith(b"\x89PNG") and head[12:16] == b"CgBI":
        return _IPHONE
    if b"%PDF-" in head[:1024]:
        return "a PDF; export the page as PNG"
    if head[40:44] == b" EMF":
        return _VECTOR.format("a Windows metafile (EMF)")
    if head[128:132] == b"DICM":
        return _OTHER.format("a DICOM image")
    if _is_targa(head):
        return _OTHER.format("a Targa image (TGA)")
    for start, fault in _STARTS.items():
        if head.startswith(start):
            return fault
    if _PORTABLE.match(head):
        return _OTHER.format("a portable anymap (PNM) or a damaged one")
    return _of_text(head)


def _is_targa(head: bytes) -> bool:
    """By its fields, as it has no mark of its own; one begins as cursors do."""
    if len(head) < 18 or head[1] > 1 or head[2] not in (1, 2, 3, 9, 10, 11):
        return False
    # Without a palette there is none of its size; a cursor has the number of images.
    plain = head[1] == 1 or not any(head[3:8])
    sides = int.from_bytes(head[12:14], "little"), int.from_bytes(head[14:16], "little")
    depths = (1, 8, 15, 16, 24, 32)
    return plain and all(sides) and head[16] in depths and head[17] < 0x40


def _of_brands(head: bytes) -> str:
    brands = heif.brands(head)
    if b"avif" in brands or b"avis" in brands:
        if features.check("avif"):
            return _DAMAGED
        install = pip_install("--upgrade", "pillow")
        return f"an AVIF image, which needs a newer Pillow; {install}"
    for brand in brands:
        if brand in _BRANDS:
            return _BRANDS[brand]
    if head[8:12] == b"jxl ":
        return _STARTS[b"\xff\x0a"]
    return "a video or an unknown image format; save it as PNG or JPEG"


def _of_text(head: bytes) -> str:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if head.startswith(mark):
            head = head[2:].decode(encoding, "ignore").encode()
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<"):
        if _SVG.search(head) and not _HTML.search(head):
            return "an SVG, not an image of pixels; export it as PNG"
        return "a web page or an SVG, not an image of pixels; export it as PNG"
    return "not an image; give a PNG, JPEG, WebP or another format of Pillow's"
