"""Pages of PDFs as images, by PDFium (pypdfium2), the extra `pdf`.

A page is called `report.pdf#page=3`, as in the address line of a browser. Nothing in a
PDF runs: this PDFium has no JavaScript, and nothing is fetched.
"""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.files.installation import install_command
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.processing.image_options import MAX_PAGE_SIDE

if TYPE_CHECKING:
    from PIL import Image

SUFFIX = ".pdf"
PAGE_SIDE = 2048  # pixels of the longer side of a page: twice the models' resolution
HEAD = 1024  # the mark may stand anywhere in these bytes

_PAGE = re.compile(r"(?P<file>.+)#page=(?P<page>[0-9]{1,9})", re.DOTALL)
_MARK = b"%PDF-"
_WRONG_PASSWORD = 4  # FPDF_ERR_PASSWORD
_UNKNOWN_LOCK = 5  # FPDF_ERR_SECURITY
_PDFIUM = threading.Lock()  # it may not be called from two threads


@cache
def available() -> bool:
    """Whether pypdfium2 is installed; it is not imported."""
    return util.find_spec("pypdfium2") is not None


def page_name(name: str | Path, page: int) -> str:
    """What a page of a PDF is called; `split_page` takes it apart."""
    return f"{name}#page={page}"


def split_page(name: str | Path) -> tuple[str, int | None]:
    """The file or address and the page of `report.pdf#page=3`; None: no page.

    A file that has such a name itself is that file.
    """
    text = str(name)
    match = _PAGE.fullmatch(text)
    if match is None or ("://" not in text[:16] and _exists(text)):
        return text, None
    return match["file"], int(match["page"])


def _exists(name: str) -> bool:
    try:
        return expand_user(name).exists()
    except (OSError, ValueError):
        return False


def is_pdf(head: bytes) -> bool:
    """Whether a file that begins so, with `HEAD` bytes or more, is a PDF."""
    return _MARK in head[:HEAD]


def page_count(data: Path | bytes, name: str) -> int:
    """How many pages a PDF has, 1 or more.

    Raises:
        ImageError: it cannot be opened; the message begins with `name`.
    """
    with _document(data, name) as document:
        return len(document)


def render(
    data: Path | bytes, name: str, page: int = 1, long_side: int = PAGE_SIDE
) -> "Image.Image":
    """A page as an RGB image on white, upright, annotations and filled forms drawn.

    Args:
        data: the PDF.
        name: of it, for messages.
        page: counted from 1.
        long_side: pixels of the longer side; the other follows.
    Raises:
        ImageError: there is no such page, or it cannot be drawn.
    """
    with _document(data, name) as document:
        document.init_forms()  # if it has any; before pages are asked for
        count = len(document)
        if not 1 <= page <= count:
            there = f"choose 1 to {count}" if count > 1 else "it has one page"
            raise ImageError(f"{name}: no page {page}; {there}")
        found = document[page - 1]
        width, height = found.get_size()  # in points, rotated as the page says
        if not (0 < width < float("inf") and 0 < height < float("inf")):
            raise ImageError(f"{name}: page {page} is {width:g}x{height:g} points")
        side = min(max(1, long_side), MAX_PAGE_SIDE)
        # A side of less than a pixel is rounded up.
        bitmap = found.render(scale=side / max(width, height), rev_byteorder=True)
        return bitmap.to_pil().convert("RGB")  # a copy: the page's memory is PDFium's


@contextmanager
def _document(data: Path | bytes, name: str) -> Iterator[Any]:
    try:
        # Imported here: an extra, and 40 ms.
        import pypdfium2
    except ImportError:
        raise ImageError(
            f"{name}: a PDF, which needs pypdfium2; {install_command('pdf')}"
        ) from None
    with _PDFIUM, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with pypdfium2.PdfDocument(data) as document:
                yield document
        except MemoryError:
            raise ImageError(
                f"{name}: too large for the memory that is free; save it smaller"
            ) from None
        except (pypdfium2.PdfiumError, ValueError) as error:
            code = getattr(error, "err_code", None)
            if code in (_WRONG_PASSWORD, _UNKNOWN_LOCK):
                fault = "is locked with a password; save a copy without one"
            else:
                fault = "a damaged PDF, or one without pages; export it again"
            raise ImageError(f"{name}: {fault}") from None
