"""Reads regular files inside of given folders, and nothing else.

A path is resolved first, links included, and must then lie in one of the folders. It
is opened step by step from that folder without following links, so a link that
appears between the check and the opening leads nowhere.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.errors import ImageError, OptionError
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.processing.image_source import MAX_BYTES, name_of


class Roots:
    """The folders that may be read.

    Args:
        folders: at least one; links are resolved once, here.
    Raises:
        OptionError: one of them is no folder, or cannot be entered.
    """

    def __init__(self, folders: Sequence[Path]):
        self.folders = tuple(_checked(folder) for folder in folders)

    def __str__(self) -> str:
        return ", ".join(map(str, self.folders))

    def read(self, text: str, limit: int = MAX_BYTES) -> bytes:
        """The bytes of the file at the path `text`, relative to one of the folders.

        Raises:
            ImageError: it is outside, missing, no regular file, or has more than
                `limit` bytes. Nothing is said about what is outside.
        """
        name = name_of(text)
        try:
            root, inner = self._place(text, name)
            return _read(root, inner, name, limit)
        except FileNotFoundError:
            raise ImageError(
                f"{name}: no such file in {self}; check the path"
            ) from None
        except (OSError, ValueError) as error:
            fault = (getattr(error, "strerror", None) or str(error)).lower()
            raise ImageError(f"{name}: {fault}; check the path") from None

    def _place(self, text: str, name: str) -> tuple[Path, Path]:
        """The folder that a path lies in, and the path from there, without links."""
        path = expand_user(text)
        found = None
        for root in self.folders:
            place = Path(os.path.realpath(root / path))
            inside = next((one for one in self.folders if _holds(one, place)), None)
            if inside is None:
                continue
            found = found or (inside, place.relative_to(inside))
            if place.exists():
                return inside, place.relative_to(inside)
        if found is None:
            raise ImageError(
                f"{name}: outside of what may be read ({self}); give a path in there,"
                " or start the server with --root DIR"
            )
        return found


def _checked(folder: Path) -> Path:
    place = Path(os.path.realpath(expand_user(folder)))
    if not place.is_dir():
        raise OptionError(f"--root {folder}: no such folder; give one that exists")
    if not os.access(place, os.R_OK | os.X_OK):
        raise OptionError(
            f"--root {folder}: permission denied; give a folder that you can read"
        )
    return place


def _holds(folder: Path, place: Path) -> bool:
    return place.is_relative_to(folder) and place != folder


def _read(root: Path, inner: Path, name: str, limit: int) -> bytes:
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number, part in enumerate(inner.parts):
            last = number == len(inner.parts) - 1
            # Non-blocking: to open a pipe otherwise waits for who writes to it.
            kind = os.O_NONBLOCK if last else os.O_DIRECTORY
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind
            step = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = step
        mode = os.fstat(at).st_mode
        if stat.S_ISDIR(mode):
            raise ImageError(f"{name}: is a folder; give an image in it")
        if not stat.S_ISREG(mode):
            raise ImageError(f"{name}: is no regular file; give an image file")
        with os.fdopen(at, "rb") as file:
            at = -1
            data = file.read(limit + 1)
    finally:
        if at >= 0:
            os.close(at)
    if len(data) > limit:
        raise ImageError(f"{name}: more than {limit >> 20} MB; save a smaller image")
    return data
