"""Which pages of a PDF `chat` shows: those of --page, else the first one."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.processing import pdf

MOST = 20  # pages at once; the model was trained with one image


def parse_pages(text: str) -> tuple[int, ...]:
    """`"3"`, `"2-4"` or `"1,3-5"` as numbers, in the order given.

    Raises:
        UsageError: the text is of another form, or names too many pages.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", part)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else 0
        if not 1 <= first <= last:
            raise UsageError(f"--page {text[:80]}: give a page such as 3, 2-4 or 1,5")
        if last - first + len(found) >= MOST:
            raise UsageError(f"--page {text[:80]}: more than {MOST} pages; give fewer")
        found.extend(range(first, last + 1))
    return tuple(found)


def choose_pages(names: Sequence[str], pages: Sequence[int]) -> tuple[str, ...]:
    """The images with each PDF as its `pages`; without any, its first one is told.

    Raises:
        UsageError: pages are asked for, and none of the images is a PDF.
        ImageError: a PDF cannot be opened, or has no such page.
    """
    found: list[str] = []
    chosen = False
    for name in names:
        count = count_of(name)
        if count is None or pdf.split_page(name)[1] is not None:
            found.append(name)
        elif pages:
            chosen = True
            for page in pages:
                if count and page > count:
                    raise ImageError(
                        f"{name}: no page {page}; choose 1 to {count}"
                        if count > 1
                        else f"{name}: no page {page}; it has one page"
                    )
                found.append(pdf.page_name(name, page))
        else:
            if count > 1:
                terminal.note(f"{name}: page 1 of {count}; --page N is another one")
            found.append(name)
    if pages and not chosen:
        raise UsageError("--page: no image here is a PDF; leave it out")
    return tuple(found)


def count_of(name: str) -> int | None:
    """How many pages a PDF has, 0 if it is an address; None: no PDF."""
    if "://" in name[:16]:
        is_pdf = urlsplit(name).path.lower().endswith(pdf.SUFFIX)
        return 0 if is_pdf else None
    path = expand_user(name)
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(pdf.HEAD)
    except (OSError, ValueError):
        return None  # told where it is opened
    # As an image whose metadata speak of PDFs is none.
    is_pdf = pdf.is_pdf(head) and not head.startswith((b"\xff\xd8", b"\x89PNG", b"II"))
    return pdf.page_count(Path(path), name) if is_pdf else None
