"""Finds the images that `caption` is given: files, folders, patterns; stable order."""

import glob
import os
import re
from collections.abc import Iterator, Sequence

from fastvlm_mlx.errors import OptionError

# What is taken from a folder; a file that is named itself may be called anything.
# HEIC is not opened, but whoever has a folder of it should hear that, and how to go on.
SUFFIXES = frozenset(
    ".avif .bmp .gif .heic .heif .jfif .jp2 .jpeg .jpg .png .ppm .tga .tif .tiff .webp"
    "".split()
)


def find(names: Sequence[str], *, recursive: bool = False) -> list[str]:
    """The images that `names` stand for, each once, where it is first named.

    A name is a file, an address, a folder (with what lies below it if `recursive`) or a
    pattern such as `photos/**/*.jpg`. Folders and patterns give images by their
    suffix, in the order of their names, `2.png` before `10.png`; hidden ones are left.

    Raises:
        OptionError: a name stands for nothing.
    """
    found: dict[str, str] = {}
    for name in names:
        for image in _expand(name, recursive):
            found.setdefault(identity(image), image)
    return list(found.values())


def identity(name: str) -> str:
    """One text for all names of one file; the working folder counts."""
    return name if is_address(name) else os.path.abspath(name)


def is_address(name: str) -> bool:
    """Whether this is a URL, which `open_image` fetches."""
    return "://" in name[:16]


def _expand(name: str, recursive: bool) -> list[str]:
    if is_address(name):
        return [name]
    path = os.path.expanduser(name)
    if os.path.isdir(path):
        images = list(_below(path, recursive))
        if not images:
            advice = "" if recursive else "; -r looks into its folders too"
            raise OptionError(f"{name}: no images in this folder{advice}")
        return images
    if os.path.lexists(path):
        return [os.path.normpath(path)]
    if not glob.has_magic(path):
        raise OptionError(f"{name}: no such file or folder")
    matches = [
        os.path.normpath(match)
        for match in glob.glob(path, recursive=True)
        if _is_image(os.path.basename(match)) and os.path.isfile(match)
    ]
    if not matches:
        raise OptionError(f"{name}: no images match")
    return sorted(matches, key=_by_number)


def _below(folder: str, recursive: bool) -> Iterator[str]:
    def fail(error: OSError):
        raise error  # os.walk would leave the folder out and say nothing

    for place, folders, files in os.walk(folder, onerror=fail):
        for name in sorted(filter(_is_image, files), key=_by_number):
            yield os.path.normpath(os.path.join(place, name))
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = sorted(shown, key=_by_number) if recursive else []


def _is_image(name: str) -> bool:
    # Hidden: also the "._photo.jpg" that macOS leaves on other systems' disks.
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _by_number(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers by their value; equal but for case, by the name itself."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], name
