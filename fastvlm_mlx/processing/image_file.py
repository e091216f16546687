"""Opens image files with Pillow as upright RGB images, 8 bits per channel.

HEIC images and pages of PDFs are opened where pillow-heif and pypdfium2 are installed.
Every fault becomes an ImageError of one line. The result has no alpha, no palette and
no orientation tag.
"""

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import (
    heif,
    image_signature,
    jpeg_end,
    pdf,
    png_chunks,
    tiff_kind,
)
from fastvlm_mlx.processing.image_input import plain
from fastvlm_mlx.processing.image_pixels import to_rgb
from fastvlm_mlx.processing.image_source import (
    name_of,
    one_line,
    read_path,
    read_stdin,
    read_url,
)
from fastvlm_mlx.processing.libtiff_messages import quiet_libtiff

MAX_PIXELS = 200_000_000  # the largest phone cameras; 800 MB once decoded
MAX_SIDE = 65_535  # JPEG's own limit; keeps the padded square within reach

Source = Image.Image | str | Path | bytes | BinaryIO | np.ndarray

# The warning filters, Pillow's pixel limit and libtiff's messages belong to the whole
# process: one image at a time may change and restore them.
_PILLOW = threading.Lock()


class _IsPDF(ImageError):
    """No image file, but pages that can be drawn."""


def open_image(
    source: Source, *, page: int | None = None, long_side: int = pdf.PAGE_SIDE
) -> Image.Image:
    """Opens one image as RGB, upright, with alpha flattened onto white.

    A binary file object and an array of uint8 are read as well, see `plain`.

    `source` is a PIL image, a path, an http or https address, `-` for standard input,
    or the bytes of an image file. An animation gives its first frame, a PDF its first
    page. Grey values of 16 and 32 bits are scaled to 8. Colour profiles are ignored.
    Besides the result, the memory used is that of the decoded file. A server must not
    pass on addresses or paths of its clients: they are opened as given.

    Args:
        source: the image.
        page: of a PDF, counted from 1; `report.pdf#page=3` says the same.
        long_side: pixels of the longer side of a PDF's page, which has none of its own.
    Raises:
        ImageError: the image cannot be read or decoded, or is too large; one line with
            the source, the fault and the way out.
    """
    source = plain(source)
    name = name_of(source)
    if isinstance(source, Image.Image):
        with _pillow(name):
            return _rgb(source, name)
    file_name = name
    if isinstance(source, str | Path):
        path, named = pdf.split_page(source)
        if named is not None:
            source = path if isinstance(source, str) else Path(path)
            page, file_name = named, name_of(source)
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
    try:
        return _decoded(data, name, page)
    except _IsPDF:
        return pdf.render(data, file_name, 1 if page is None else page, long_side)


def _decoded(data: Path | bytes, name: str, page: int | None) -> Image.Image:
    with _reading(data, name) as file, _pillow(name, file):
        with _opened(file, name) as image:
            if page is not None:
                raise ImageError(f"{name}: has no pages, as it is no PDF; leave it out")
            try:
                return _rgb(image, name)
            except OSError as error:
                if image.format not in ("JPEG", "MPO") or error.errno is not None:
                    raise
                whole = jpeg_end.decode_without_end(file)
                if whole is None:
                    raise
                return _rgb(whole, name)


def size_of(data: bytes, formats: Sequence[str]) -> tuple[int, int]:
    """(width, height) of the file `data` by its header; nothing is decoded.

    Raises:
        ImageError: it is of none of Pillow's `formats`, such as "PNG"; the message is
            that of `open_image` where that does not open it either.
    """
    name = name_of(data)
    with _reading(data, name) as file, _pillow(name, file):
        with _opened(file, name, tuple(formats)) as image:
            _check_size(image, name)
            return image.size


@contextmanager
def _reading(data: Path | bytes, name: str) -> Iterator[BinaryIO]:
    """The file, at its start, with something in it."""
    try:
        file = data.open("rb") if isinstance(data, Path) else io.BytesIO(data)
    except OSError as error:
        raise _unreadable(error, name) from error
    with file:
        try:
            empty = not file.read(1)
            file.seek(0)
        except OSError as error:
            raise _unreadable(error, name) from error
        if empty:
            raise ImageError(f"{name}: the file is empty; give an image")
        yield file


def _unreadable(error: OSError, name: str) -> ImageError:
    fault = one_line(error.strerror or error)
    return ImageError(f"{name}: cannot be read ({fault}); check the file and its disk")


@contextmanager
def _pillow(name: str, file: BinaryIO | None = None) -> Iterator[None]:
    """Pillow with our limit on pixels, without warnings; its faults as ImageError.

    `file`, if there is one, says what it is that Pillow does not know.
    """
    with _PILLOW, warnings.catch_warnings(), quiet_libtiff():
        warnings.simplefilter("ignore")
        theirs, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_PIXELS
        try:
            yield
        except ImageError:
            raise
        except UnidentifiedImageError:
            fault = "not an image; give one of pixels"
            if file is not None:
                fault = tiff_kind.unsupported(file) or image_signature.describe(file)
            raise ImageError(f"{name}: {fault}") from None
        except Image.DecompressionBombError:
            raise ImageError(
                f"{name}: more than {MAX_PIXELS // 10**6} megapixels; "
                "scale it down first"
            ) from None
        except MemoryError:
            raise ImageError(
                f"{name}: too large for the memory that is free; scale it down first"
            ) from None
        # Pillow's readers raise OSError, SyntaxError, ValueError, struct.error,
        # KeyError and others on damaged files; all mean the same to the caller. An
        # error of the operating system is another matter: it has a number.
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise _unreadable(error, name) from error
            raise ImageError(
                f"{name}: damaged or unsupported ({one_line(error)}); "
                "save it again as PNG or JPEG"
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS = theirs


def _opened(
    file: BinaryIO, name: str, formats: tuple[str, ...] | None = None
) -> ImageFile.ImageFile:
    """Pillow's image of the file, its pixels not decoded yet."""
    start = file.read(pdf.HEAD)
    head = start[:16]
    file.seek(0)
    if head.startswith(png_chunks.SIGNATURE):
        if head.endswith(b"CgBI"):
            raise UnidentifiedImageError
        file = png_chunks.pixels_only(file)
    known = formats
    if formats is not None and heif.FORMAT not in Image.OPEN:  # unless registered
        known = tuple(each for each in formats if each != heif.FORMAT)
    try:
        return Image.open(file, formats=known)
    except UnidentifiedImageError:
        if formats is None and pdf.is_pdf(start):
            raise _IsPDF(f"{name}: a PDF") from None
        if formats is None or heif.FORMAT in formats:
            return heif.opened(file, name)
        raise


def _check_size(image: Image.Image, name: str):
    width, height = image.size
    if not width or not height:
        raise ImageError(f"{name}: the image is {width}x{height}; give one of pixels")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name}: {width}x{height} is more than {MAX_PIXELS // 10**6} megapixels "
            f"or {MAX_SIDE} pixels a side; scale it down first"
        )


def _rgb(image: Image.Image, name: str) -> Image.Image:
    # Pillow hands PostScript to Ghostscript, a program; images run no programs.
    if image.format == "EPS":
        raise ImageError(f"{name}: PostScript is not opened; save it as PNG")
    if isinstance(image, ImageFile.StubImageFile):
        raise ImageError(f"{name}: {image.format} is not opened; save it as PNG")
    _check_size(image, name)
    if fault := tiff_kind.prepare(image):
        raise ImageError(f"{name}: {fault}")
    image.load()
    return to_rgb(image)
