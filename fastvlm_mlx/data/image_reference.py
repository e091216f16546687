"""What a row calls an image, as something that `open_image` opens."""

import base64
import binascii
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from fastvlm_mlx.data.faults import BadRow
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.processing import pdf
from fastvlm_mlx.processing.image_source import name_of

# What `open_image` opens: a file, an http(s) address, or the bytes of an image file.
Image = Path | str | bytes

_DATA_URL = re.compile(r"data:[^,]*;\s*base64\s*,", re.IGNORECASE)


class ImageFinder:
    """Finds images in `folders`, the first that has one; nothing is opened."""

    def __init__(self, folders: Sequence[Path]):
        self._folders = folders

    def find_all(self, named: Any) -> list[Image]:
        """The images of one name, a list of names, or None.

        Raises:
            BadRow: one is not there.
        """
        if named is None:
            return []
        return [self.find(each) for each in (named if _is_list(named) else [named])]

    def find(self, named: Any) -> Image:
        """The image of a path, an http(s), file: or data: address.

        Also of `{"url": ...}` and `{"path": ...}`, as OpenAI and datasets write it.

        Raises:
            BadRow: it is not there.
        """
        if isinstance(named, dict):
            named = named.get("url") or named.get("path")
        if not isinstance(named, str):
            raise BadRow("the name of an image is no text")
        name = named.strip()
        if not name:
            raise BadRow("an image has an empty name")
        if name[:5].lower() == "data:":
            return _embedded(name)
        scheme = name.partition("://")[0].lower() if "://" in name[:16] else ""
        if scheme in ("http", "https"):
            return name
        if scheme == "file":
            name = unquote(urlsplit(name).path)
        elif scheme:
            raise BadRow(f"{name_of(name)}: give a path, or an http or https address")
        return self._file(name)

    def _file(self, name: str) -> Path:
        name, page = pdf.split_page(name)
        path = self._existing(name)
        return path if page is None else Path(pdf.page_name(path, page))

    def _existing(self, name: str) -> Path:
        try:
            for folder in self._folders:
                # A copy may have changed the Unicode form of a name, as macOS does.
                for form in (None, "NFC", "NFD"):
                    text = unicodedata.normalize(form, name) if form else name
                    path = folder / expand_user(text)
                    if path.is_file():
                        return path
            for folder in self._folders:
                path = folder / expand_user(name)
                if path.is_dir():
                    raise BadRow(f"{name_of(name)}: is a folder, not an image")
                if path.exists():
                    raise BadRow(f"{name_of(name)}: is no regular file")
                path.stat()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "strerror", None) or error).lower()
            raise BadRow(f"{name_of(name)}: {reason}") from None
        raise BadRow(f"{name_of(name)}: no such file")


def file_of(image: Image) -> Path | None:
    """The file of an image that is one, or a page of it; else None."""
    if isinstance(image, bytes) or (isinstance(image, str) and "://" in image[:16]):
        return None
    return Path(pdf.split_page(image)[0])


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _embedded(url: str) -> bytes:
    head = _DATA_URL.match(url)
    try:
        if head is None:
            raise ValueError
        data = base64.b64decode("".join(url[head.end() :].split()), validate=True)
    except (ValueError, binascii.Error):
        raise BadRow("a data: address is not base64 of an image file") from None
    if not data:
        raise BadRow("a data: address is empty")
    return data
