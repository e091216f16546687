"""Folders: images with a `.txt` of the same name beside each, or one data file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fastvlm_mlx.data.faults import SHOWN
from fastvlm_mlx.errors import DataError
from fastvlm_mlx.processing.image_source import name_of
from fastvlm_mlx.processing.image_suffixes import foreign_suffixes, opened_suffixes

DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


@dataclass
class Folder:
    """What lies in a folder and its folders, in the order of names.

    Attributes:
        pairs: images, each with its text.
        alone: images without a text.
        foreign: images that cannot be opened.
        texts: texts without an image.
        data: files at the top that may be data of their own.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    alone: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    texts: list[Path] = field(default_factory=list)
    data: list[Path] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A line for each kind of file that is left out."""
        kinds = (
            (self.alone, "image has", "images have", "no .txt"),
            (self.foreign, "image is", "images are", "of a kind that is not opened"),
            (self.texts, ".txt file is", ".txt files are", "beside no image"),
        )
        return [
            f"{len(files)} {one if len(files) == 1 else many} {what}: {named(files)}"
            for files, one, many, what in kinds
            if files
        ]


def look_into(path: Path) -> Folder:
    """What lies in `path`, hidden files and folders left out.

    Raises:
        DataError: it cannot be read.
    """
    folder = Folder()
    images: list[Path] = []
    texts: dict[Path, None] = {}
    for file in _files(path):
        suffix = file.suffix.lower()
        if suffix in opened_suffixes():
            images.append(file)
        elif suffix in foreign_suffixes():
            folder.foreign.append(file)
        elif suffix == ".txt":
            texts[file] = None
        elif suffix in DATA_SUFFIXES and file.parent == path:
            folder.data.append(file)
    owned: set[Path] = set()
    for image in images:
        text = next((t for t in _texts_of(image) if t in texts), None)
        if text is None:
            folder.alone.append(image)
        else:
            folder.pairs.append((image, text))
            owned.add(text)
    of_foreign = {text for image in folder.foreign for text in _texts_of(image)}
    folder.texts = [t for t in texts if t not in owned and t not in of_foreign]
    return folder


def _texts_of(image: Path) -> tuple[Path, Path]:
    """`cat.txt`, and `cat.jpg.txt` as some programs call it."""
    return image.with_suffix(".txt"), image.with_name(f"{image.name}.txt")


def _files(path: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{error.filename}: {reason}; check its permissions") from error

    for place, folders, files in os.walk(path, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(place, name)
            if not name.startswith(".") and file.is_file():
                yield file


def named(files: list[Path]) -> str:
    """The first few names, and how many more there are."""
    text = ", ".join(name_of(file) for file in files[:SHOWN])
    return text + (f" and {len(files) - SHOWN} more" if len(files) > SHOWN else "")
