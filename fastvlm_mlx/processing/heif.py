"""Opens HEIC and other HEIF images with pillow-heif, the extra `heic`.

Pillow has no decoder for them. The plug-in is not registered with Pillow, which is the
caller's too: its class is used for the file at hand. It rotates and mirrors the image
as the file says, and takes the orientation out of its EXIF.
"""

from functools import cache
from importlib import util
from typing import BinaryIO

from PIL import ImageFile, UnidentifiedImageError

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.files.installation import install_command

FORMAT = "HEIF"  # pillow-heif's name in `Image.format`
SUFFIXES = frozenset(".heic .heif .hif .heics .heifs".split())

# Of the ISO base media file, `ftyp` before them; the last three are of any coding.
BRANDS = frozenset(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
    + (b"mif1", b"msf1", b"mif2")
)
_HEAD = 4096


class MissingHEIF(ImageError):
    """A HEIC image, and pillow-heif is not installed."""


@cache
def available() -> bool:
    """Whether pillow-heif is installed; it is not imported."""
    return util.find_spec("pillow_heif") is not None


def brands(head: bytes) -> list[bytes]:
    """The brands of an ISO base media file, the major one first; none of another."""
    if head[4:8] != b"ftyp":
        return []
    size = min(int.from_bytes(head[:4], "big"), len(head))
    # The major brand, a version, and what else the file is compatible with.
    return [head[8:12], *(head[n : n + 4] for n in range(16, size - 3, 4))]


def opened(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """Pillow's image of a HEIF file, its pixels not decoded yet.

    Args:
        file: of any kind; read from its start.
        name: for messages.
    Raises:
        UnidentifiedImageError: it is of another kind, AVIF among them.
        MissingHEIF: it is one, and pillow-heif is not installed.
        ValueError: it is one, and damaged or of a coding that is not supported.
    """
    file.seek(0)
    found = brands(file.read(_HEAD))
    if not BRANDS.intersection(found) or {b"avif", b"avis"}.intersection(found):
        raise UnidentifiedImageError
    try:
        # Imported here: an extra, and 60 ms.
        from pillow_heif import HeifImageFile
    except ImportError:
        raise MissingHEIF(
            f"{name}: a HEIC image, which needs pillow-heif; {install_command('heic')}"
        ) from None
    file.seek(0)
    try:
        return HeifImageFile(file)
    except (RuntimeError, SyntaxError, ValueError) as error:
        # Libheif does not say what kind of file it is about.
        raise ValueError(f"HEIC: {error}") from error
