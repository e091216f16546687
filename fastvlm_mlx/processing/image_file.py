"""Opens image files with Pillow as upright RGB images, 8 bits per channel.

Every fault becomes an ImageError of one line. The result has no alpha, no palette and
no orientation tag.
"""

import io
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing.image_input import plain
from fastvlm_mlx.processing.image_source import (
    name_of,
    one_line,
    read_path,
    read_stdin,
    read_url,
)

MAX_PIXELS = 200_000_000  # the largest phone cameras; 800 MB once decoded
MAX_SIDE = 65_535  # JPEG's own limit; keeps the padded square within reach

Source = Image.Image | str | Path | bytes | BinaryIO | np.ndarray

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The warning filters and Pillow's pixel limit belong to the whole process: one image
# at a time may change and restore them.
_PILLOW = threading.Lock()


def open_image(source: Source) -> Image.Image:
    """Opens one image as RGB, upright, with alpha flattened onto white.

    A binary file object and an array of uint8 are read as well, see `plain`.

    `source` is a PIL image, a path, an http or https address, `-` for standard input,
    or the bytes of an image file. An animation gives its first frame. Grey values of
    16 and 32 bits are scaled to 8. Colour profiles are ignored. A server must not pass
    on addresses or paths of its clients: they are opened as given.

    Raises:
        ImageError: the image cannot be read or decoded, or is too large; one line with
            the source, the fault and the way out.
    """
    source = plain(source)
    name = name_of(source)
    if isinstance(source, Image.Image):
        return _decode(lambda: source, name, b"")
    if isinstance(source, bytes):
        data = source
    elif not isinstance(source, str | Path):
        raise ImageError(
            f"{name}: not an image; give a path, an address, bytes or a PIL image"
        )
    elif str(source) == "-":
        data = read_stdin(name)
    elif isinstance(source, str) and "://" in source[:16]:
        data = read_url(source, name)
    else:
        data = read_path(source, name)
    if isinstance(data, Path):
        with data.open("rb") as file:
            head = file.read(32)
    else:
        head = data[:32]
    if not head:
        raise ImageError(f"{name}: the file is empty; give an image")

    def opened() -> ImageFile.ImageFile:
        return Image.open(data if isinstance(data, Path) else io.BytesIO(data))

    return _decode(opened, name, head)


def size_of(data: bytes, formats: Sequence[str]) -> tuple[int, int]:
    """(width, height) of the file `data` by its header; nothing is decoded.

    Raises:
        ImageError: it is of none of Pillow's `formats`, such as "PNG".
    """
    try:
        with _pillow(), Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
            return image.size
    # As below: whatever Pillow raises, the file is no image that we take.
    except Exception:
        raise ImageError(
            f"{name_of(data)}: not an image or a damaged one; give one of"
            f" {', '.join(formats)}, of {MAX_PIXELS // 10**6} megapixels at most"
        ) from None


@contextmanager
def _pillow() -> Iterator[None]:
    """Silences Pillow's warnings and sets our limit on pixels in place of its own."""
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


def _decode(opened: Callable[[], Image.Image], name: str, head: bytes) -> Image.Image:
    try:
        with _pillow():
            image = opened()
            # An image that the caller opened stays open; Pillow closes ours.
            if not head:
                return _rgb(image, name)
            with image:
                return _rgb(image, name)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: {_foreign(head)}") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{name}: more than {MAX_PIXELS // 10**6} megapixels; scale it down first"
        ) from None
    # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error, KeyError
    # and others on damaged files; all of them mean the same to the caller.
    except Exception as error:
        raise ImageError(
            f"{name}: damaged or unsupported ({one_line(error)}); "
            "save it again as PNG or JPEG"
        ) from error


def _foreign(head: bytes) -> str:
    """Fault and way out for a file that Pillow does not know."""
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
        return "a HEIC image; convert it: `sips -s format jpeg IN --out OUT.jpg`"
    if head[4:8] == b"ftyp":
        return "a video or an unknown image format; save it as PNG or JPEG"
    if head.startswith(b"%PDF"):
        return "a PDF; export the page as PNG"
    if head.lstrip().startswith(b"<"):
        return "a web page or an SVG, not an image of pixels; export it as PNG"
    if head.startswith((b"\x89PNG", b"\xff\xd8", b"GIF8", b"RIFF", b"BM", b"II*\0")):
        return "the header is damaged; save it again as PNG or JPEG"
    return "not an image; give a PNG, JPEG, WebP or another format of Pillow's"


def _rgb(image: Image.Image, name: str) -> Image.Image:
    width, height = image.size
    if not width or not height:
        raise ImageError(f"{name}: the image is {width}x{height}; give one of pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name}: {width}x{height} is more than {MAX_PIXELS // 10**6} megapixels "
            f"or {MAX_SIDE} pixels a side; scale it down first"
        )
    # Pillow hands PostScript to Ghostscript, a program; images run no programs.
    if image.format == "EPS":
        raise ImageError(f"{name}: PostScript is not opened; save it as PNG")
    image.load()
    turn = _UPRIGHT.get(_orientation(image))
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        if image.mode in ("La", "PA"):
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, (0, 0), image)
        image = flat
    elif image.mode != "RGB":
        image = image.convert("RGB")
    if turn is None:
        return image
    image = image.transpose(turn)
    image.info = {}  # still holds the old orientation, and would turn it twice
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    # Camera metadata is often damaged; the pixels are what was asked for.
    except Exception:
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of 16 or 32 bits, or floats, as 0..255.

    Values within 0..1 (floats), 0..255 or 0..65535 keep that scale; larger ones are
    scaled by the largest, negative ones shifted by the smallest. NaN counts as zero.
    """
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    elif low >= 0:
        scales = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
        low, high = 0.0, next((scale for scale in scales if high <= scale), high)
    values = (values - low) * (255 / max(high - low, 1e-30))
    return Image.fromarray(np.rint(values).astype(np.uint8))
