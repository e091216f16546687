"""A folder, or one image file that is written anew: looked at again and again."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import numpy as np
from PIL import Image

from fastvlm_mlx.app.watch.lines import identity
from fastvlm_mlx.app.watch.shot import Shot
from fastvlm_mlx.errors import ImageError, OptionError
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_suffixes import opened_suffixes
from fastvlm_mlx.processing.video.change import thumbnail

POLL = 0.25  # seconds between two looks

# Size and time of writing: they change while a file is written.
_State = tuple[int, int]


class FolderSource:
    """The images of a folder in the order in which they were written, each once.

    A file that is written again is looked at again. A file counts once it has not
    changed between two looks.

    Args:
        path: the folder, or an image file.
        from_start: with what is there already.

    `done` are the `identity` of what an earlier run has looked at.
    """

    keeps_all = True

    def __init__(self, path: Path, *, from_start: bool = False):
        self.name = str(path)
        self.done: set[str] = set()
        self._path, self._from_start = path, from_start
        self._seen: dict[str, _State] = {}  # that were handed over, or are left out
        self._missing = False

    def open(self) -> None:
        """Remembers what is there; it is left out unless `from_start`.

        Raises:
            OptionError: the folder cannot be read.
        """
        found = self._look()
        if found is None:
            raise OptionError(f"{self.name}: cannot be read; check its permissions")
        if not self._from_start and not self._path.is_file():
            self._seen = found

    def shots(self, stop: Event) -> Iterator[Shot]:
        before: dict[str, _State] = {}
        while not stop.is_set():
            now = self._look() or {}  # a disk that is away may come back
            fresh = [
                (state[1], name)
                for name, state in now.items()
                if self._seen.get(name) != state and before.get(name) == state
            ]
            for _, name in sorted(fresh):
                self._seen[name] = now[name]
                modified = now[name][1] / 1e9
                if identity(name, modified) in self.done:
                    continue
                yield _shot(name, modified)
                if stop.is_set():
                    return
            before = now
            stop.wait(POLL)

    def _look(self) -> dict[str, _State] | None:
        """The images that are there, and how they are; None if that cannot be read."""
        try:
            if not self._path.is_dir():
                return {self.name: _state(os.stat(self._path))}
            found = {}
            with os.scandir(self._path) as entries:
                for entry in entries:
                    suffix = os.path.splitext(entry.name)[1].lower()
                    if entry.name.startswith(".") or suffix not in opened_suffixes():
                        continue
                    try:
                        if entry.is_file() and entry.stat().st_size:
                            found[entry.path] = _state(entry.stat())
                    except OSError:
                        continue  # gone again
            return found
        except OSError:
            return None


def _state(status: os.stat_result) -> _State:
    return status.st_size, status.st_mtime_ns


def _shot(name: str, modified: float) -> Shot:
    opened: list[Image.Image] = []

    def image() -> Image.Image:
        if not opened:
            opened.append(open_image(name))
        return opened[0]

    cells: Callable[[], np.ndarray] = lambda: thumbnail(image())  # noqa: E731
    return Shot(image, cells, name=name, modified=modified)


def is_image_file(path: Path) -> bool:
    """Whether a file is to be opened as an image, by its name."""
    return path.suffix.lower() in opened_suffixes() and path.suffix.lower() != ".gif"


def baseline(name: str) -> np.ndarray | None:
    """The thumbnail of an image file, or None if it is no longer there."""
    try:
        return thumbnail(open_image(name))
    except ImageError:
        return None
