"""Finds the images that `caption` is given: files, folders, patterns; stable order."""

import glob
import os
import re
import stat
import unicodedata
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from fastvlm_mlx.app import terminal
from fastvlm_mlx.errors import ImageError, OptionError
from fastvlm_mlx.files.installation import install_command
from fastvlm_mlx.processing import heif, pdf
from fastvlm_mlx.processing.image_source import name_of
from fastvlm_mlx.processing.image_suffixes import foreign_suffixes, opened_suffixes

LISTED = 10  # images named in one line

# Thumbnails and bins of network disks, Windows and archives; the others are hidden.
_NO_PHOTOS = frozenset(
    (
        "@eaDir",
        "@__thumb",
        "@Recycle",
        "@Recently-Snapshot",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
        "__MACOSX",
    )
)


def find(
    names: Sequence[str],
    *,
    recursive: bool = False,
    warn: Callable[[str], None] = terminal.note,
) -> list[str]:
    """The images that `names` stand for, each once, where it is first named.

    A name is a file, an address, a folder (with what lies below it if `recursive`) or a
    pattern such as `photos/**/*.jpg`. A PDF gives its pages, `report.pdf#page=1`.
    Folders and patterns give images by their suffix, in the order of their names,
    `2.png` before `10.png`; hidden ones are left. Folders that are links come last,
    and none is looked into twice. `warn` is told, a line each, of folders that cannot
    be read and of images of kinds that cannot be opened.

    Raises:
        OptionError: a name stands for nothing.
    """
    search = _Search(recursive, warn)
    found: dict[str, str] = {}
    for name in names:
        for image in search.expand(name):
            found.setdefault(identity(image), image)
    if search.foreign:
        warn(f"warning: {_left_out(search.foreign)}")
    return list(found.values())


def identity(name: str) -> str:
    """One text for all names of one file; the working folder counts."""
    return name if is_address(name) else os.path.abspath(name)


def is_address(name: str) -> bool:
    """Whether this is a URL, which `open_image` fetches."""
    return "://" in name[:16]


def without_caption(images: Sequence[str], done: Collection[str]) -> list[str]:
    """The images whose identity is not in `done`.

    A name that a disk or a copy has changed from one Unicode form to another, as macOS
    does ("é" as one letter or two), is the same name.
    """
    composed = {unicodedata.normalize("NFC", other): other for other in done}
    left: list[str] = []
    for image in images:
        own = identity(image)
        if own in done:
            continue
        other = composed.get(unicodedata.normalize("NFC", own))
        if other is None or _are_two(own, other):
            left.append(image)
    return left


def _are_two(one: str, other: str) -> bool:
    """Whether both exist: on Linux, two names of other forms can be two files."""
    try:
        return not os.path.samefile(one, other)
    except OSError:
        return os.path.lexists(one) and os.path.lexists(other)


class _Search:
    def __init__(self, recursive: bool, warn: Callable[[str], None]):
        self.foreign: list[str] = []  # images that are not opened here
        self._recursive, self._warn = recursive, warn

    def expand(self, name: str) -> list[str]:
        if is_address(name):
            return [name]
        path = os.path.expanduser(name)
        known = len(self.foreign)
        if os.path.isdir(path):
            images = [
                os.path.join(place, file)
                for place, files in self._folders(path, self._recursive, strict=True)
                for file in files
                if self._is_taken(place, file)
            ]
            advice = "" if self._recursive else "; -r looks into its folders too"
            nothing = f"{name}: no images in this folder{advice}"
        elif os.path.lexists(path):
            return _pages(os.path.normpath(path))
        elif (page := pdf.split_page(path))[1] and os.path.lexists(page[0]):
            return [os.path.normpath(path)]
        elif glob.has_magic(path):
            plain = set(path.split(os.sep))
            images = [
                match
                for match in self._matches(path)
                if self._is_taken(*os.path.split(match))
                and not (_NO_PHOTOS & set(match.split(os.sep))) - plain
            ]
            images.sort(key=_by_number)
            nothing = f"{name}: no images match"
        else:
            raise OptionError(f"{name}: no such file or folder")
        if not images:
            if foreign := self.foreign[known:]:
                nothing = f"{name}: {_left_out(foreign)}"
            raise OptionError(nothing)
        return [page for image in images for page in _pages(os.path.normpath(image))]

    def _is_taken(self, folder: str, name: str) -> bool:
        # Hidden: also the "._photo.jpg" that macOS leaves on other systems' disks.
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith(".") or not suffix:
            return False
        path = os.path.join(folder, name)
        if suffix == pdf.SUFFIX and pdf.available():
            return _may_be_file(path)
        if suffix in foreign_suffixes() or suffix == pdf.SUFFIX:
            if _may_be_file(path):
                self.foreign.append(os.path.normpath(path))
            return False
        return suffix in opened_suffixes() and _may_be_file(path)

    def _matches(self, pattern: str) -> Iterator[str]:
        """What a pattern stands for; `**` goes where `_folders` goes."""
        parts = pattern.split(os.sep)
        if "**" not in parts:
            yield from glob.glob(pattern)
            return
        at = parts.index("**")
        rest = parts[at + 1 :] or ["*"]
        head = os.sep.join([*parts[:at], ""]) if at else os.curdir
        bases = glob.glob(head) if glob.has_magic(head) else [head]
        for base in filter(os.path.isdir, bases):
            for place, _ in self._folders(base, recursive=True):
                yield from self._matches(os.path.join(glob.escape(place), *rest))

    def _folders(
        self, folder: str, recursive: bool, *, strict: bool = False
    ) -> Iterator[tuple[str, list[str]]]:
        """A folder, and those below it if `recursive`, each with its files in order.

        Links come last, so that a folder has its own name if both lie below. One that
        cannot be read is told of; `strict`, if it is the first, that is an error.
        """
        seen: set[tuple[int, int]] = set()
        waiting, links = [folder], deque[str]()
        while waiting or links:
            place = waiting.pop() if waiting else links.popleft()
            try:
                status = os.stat(place)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(place) as found:
                    entries = sorted(found, key=lambda entry: _by_number(entry.name))
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                if strict and place == folder:
                    raise OptionError(
                        f"{folder}: {reason}; check its permissions"
                    ) from None
                self._warn(f"warning: {name_of(place)}: {reason}; left out")
                continue
            below: list[str] = []
            files: list[str] = []
            for entry in entries:
                if not _is_folder(entry):
                    files.append(entry.name)
                elif not entry.name.startswith(".") and entry.name not in _NO_PHOTOS:
                    (links if entry.is_symlink() else below).append(entry.path)
            yield place, files
            if not recursive:
                return
            waiting.extend(reversed(below))


def _pages(path: str) -> list[str]:
    """The pages of a PDF; another file, and a PDF that is damaged, itself."""
    if os.path.splitext(path)[1].lower() != pdf.SUFFIX or not _may_be_file(path):
        return [path]
    try:
        count = pdf.page_count(Path(path), path)
    except ImageError:
        return [path]  # what is wrong with it is told where it is opened
    return [pdf.page_name(path, number) for number in range(1, count + 1)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, or a link into a folder that is closed to us
        return False


def _may_be_file(path: str) -> bool:
    """Whether this is no pipe, device or folder; what cannot be told is tried."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True


def _left_out(images: list[str]) -> str:
    kinds = sorted({os.path.splitext(image)[1].lower() for image in images})
    text = ", ".join(name_of(image) for image in images[:LISTED])
    if len(images) > LISTED:
        text += f" and {len(images) - LISTED} more"
    count = f"{len(images)} image{'' if len(images) == 1 else 's'} left out"
    advice = "save as JPEG"
    # What is missing; where nothing is, they would not be here.
    for suffixes, extra in ((heif.SUFFIXES, "heic"), ({pdf.SUFFIX}, "pdf")):
        if suffixes.intersection(kinds):
            advice += f", or for {extra.upper()} {install_command(extra)}"
    return f"{count}, as {', '.join(kinds)} cannot be opened; {advice}: {text}"


def _by_number(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers by their value; equal but for case, by the name itself."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], name
