"""Tells the TIFFs that Pillow decodes rightly from those that it does not.

Pillow opens some kinds wrongly without an error and calls others no image. A kind that
is not opened is refused by its name; the file itself is sound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image, ImagePalette, TiffImagePlugin

from fastvlm_mlx.processing.image_signature import RAW

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_BYTES, _SAMPLES, _PLANAR, _FORMAT = 279, 277, 284, 339
_SUBFILE, _COLOUR_MAP, _SUB_IFDS, _SUBSAMPLING, _DNG = 254, 320, 330, 530, 50706
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
_RAW_SENSOR = (32803, 34892)  # photometric: colour filter array, linear raw
_COLOURS = {
    0: "white is zero",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "CIELab",
    9: "ICCLab",
    10: "ITULab",
    32844: "LogL",
    32845: "LogLuv",
}
_NUMBERS = {_UNSIGNED: "unsigned integers", _SIGNED: "signed integers"}
_NUMBERS |= {_FLOAT: "floats", 5: "complex integers", 6: "complex floats"}
_WAY_OUT = "save it again as an 8-bit TIFF or as PNG"
# libtiff gives samples in the machine's byte order; Pillow forgets that for these.
_NATIVE = {"I;16BS": "I;16NS", "I;16S": "I;16NS", "I;32BS": "I;32NS"}
_NATIVE |= {"I;32S": "I;32NS", "F;32BF": "F;32NF", "F;32F": "F;32NF"}


@dataclass(frozen=True)
class Samples:
    """What a grey image's values mean beyond Pillow's mode; `bits` is 0 if unknown."""

    bits: int = 0
    signed: bool = False
    inverted: bool = False


def samples(image: Image.Image) -> Samples:
    """The samples of `image`, a TIFF's as its tags say."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return Samples()
    tags = image.tag_v2
    return Samples(
        _first(tags, _BITS, 1),
        _first(tags, _FORMAT, _UNSIGNED) == _SIGNED,
        # Of 8 bits and less, Pillow inverts them.
        _first(tags, _PHOTOMETRIC, 0) == 0 and image.mode not in ("1", "L"),
    )


def unsupported(file: BinaryIO) -> str:
    """Fault and way out for a TIFF that Pillow does not open, "" for another file."""
    try:
        file.seek(0)
        head = file.read(8)
        if not head.startswith(tuple(TiffImagePlugin.PREFIXES)):
            return ""
        if head[2:4] in (b"+\0", b"\0+"):
            head += file.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        file.seek(tags.next)
        tags.load(file)
        if _is_raw(tags):
            return RAW
        if not _first(tags, _WIDTH, 0) or not _first(tags, _HEIGHT, 0):
            return ""
        return f"{_kind(tags)}, which is not opened; {_WAY_OUT}"
    # Whatever a damaged directory raises: then it is the header that is damaged.
    except Exception:
        return ""


def prepare(image: Image.Image) -> str:
    """Makes Pillow decode `image` rightly: "", or the fault and the way out.

    Anything but a TIFF that is not decoded yet is left as it is.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.tile:
        return ""
    tags = image.tag_v2
    if _is_raw(tags):
        return RAW
    planar = _first(tags, _PLANAR, 1) == 2
    photometric = _first(tags, _PHOTOMETRIC, 0)
    subsampled = photometric == 6 and not _is_full(tags, image.size)
    raw = _first(tags, _COMPRESSION, 1) == 1
    if planar and image.mode in ("LA", "La", "PA", "LAB", "YCbCr"):
        return f"{_kind(tags)}, which is not opened; {_WAY_OUT}"
    if raw and (
        subsampled
        or photometric == 6
        and _SUBSAMPLING in tags  # Pillow before 13 calls full colour cut
        or planar
        and (len(image.getbands()) == 1 or _first(tags, _BITS, 1) != 8)
    ):
        _read_with_libtiff(image)
    if subsampled and planar:
        return f"{_kind(tags)}, which is not opened; {_WAY_OUT}"
    colours = tags.get(_COLOUR_MAP, ())
    if image.mode in ("P", "PA") and max(colours, default=256) < 256:
        # Of 16 bits by the standard; old writers put 8 there.
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    image.tile = [
        tile._replace(args=(_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]
    return ""


def _read_with_libtiff(image: TiffImagePlugin.TiffImageFile):
    """Pillow's own reader of unpacked samples garbles this kind; libtiff does not."""
    theirs, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
    try:
        image._setup()
    finally:
        TiffImagePlugin.READ_LIBTIFF = theirs


def _is_raw(tags: Mapping[int, Any]) -> bool:
    # A camera's file begins with a small preview; its sensor's data are elsewhere.
    preview = _first(tags, _SUBFILE, 0) & 1 and _SUB_IFDS in tags
    return _DNG in tags or _first(tags, _PHOTOMETRIC, 0) in _RAW_SENSOR or bool(preview)


def _is_full(tags: Mapping[int, Any], size: tuple[int, int]) -> bool:
    """Whether YCbCr has as many samples of colour as of brightness."""
    if _SUBSAMPLING in tags:
        return tuple(tags[_SUBSAMPLING]) == (1, 1)
    # The default is (2, 2); writers that forget the tag write all samples.
    counts = tags.get(_STRIP_BYTES, 0)
    total = sum(counts) if isinstance(counts, tuple) else counts
    return total >= size[0] * size[1] * 3


def _kind(tags: Mapping[int, Any]) -> str:
    bits = _first(tags, _BITS, 1)
    numbers = _NUMBERS.get(_first(tags, _FORMAT, _UNSIGNED), "samples of unknown kind")
    photometric = _first(tags, _PHOTOMETRIC, 0)
    kind = f"a TIFF of {bits}-bit {numbers}, {_first(tags, _SAMPLES, 1)} per pixel"
    kind += f", {_COLOURS.get(photometric, f'photometric {photometric}')}"
    if _first(tags, _PLANAR, 1) == 2:
        kind += ", in separate planes"
    compression = _first(tags, _COMPRESSION, 1)
    if compression not in TiffImagePlugin.COMPRESSION_INFO:
        kind += f", of compression {compression}"
    return kind


def _first(tags: Mapping[int, Any], tag: int, default: int) -> int:
    value = tags.get(tag, default)
    if isinstance(value, tuple):
        value = value[0] if value else default
    return value if isinstance(value, int) else default
