"""Reads a benchmark from what was downloaded, recognized by its files."""

import os
from collections.abc import Iterator
from pathlib import Path

from fastvlm_mlx.data.folder import DATA_SUFFIXES
from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.own import OWN
from fastvlm_mlx.evaluation.question import Benchmark
from fastvlm_mlx.files.user_path import expand_user

_FORMATS: tuple[Format, ...] = ()
_BY_NAME = {each.name: each for each in (*_FORMATS, OWN)}
FORMATS = tuple(_BY_NAME)

_DEPTH = 3  # folders below the one given
_HEAD = 1 << 14  # bytes by which a file is recognized
_SUFFIXES = (*DATA_SUFFIXES, ".parquet")


def read_benchmark(
    path: str | Path,
    *,
    format: str | None = None,
    image_folder: str | Path | None = None,
) -> Benchmark:
    """Reads the questions of a benchmark; no image is opened.

    Args:
        path: the data file, or a folder with it, or above it.
        format: one of `FORMATS`; None: recognized from the files.
        image_folder: where images lie; None: where the download puts them.
    Raises:
        DataError: nothing is recognized, or several benchmarks are; a question is
            faulty or its image missing (the first few are named, the rest counted).
    """
    place = expand_user(path)
    if format is not None and format not in _BY_NAME:
        raise DataError(f"format {format}: choose one of {', '.join(FORMATS)}")
    images = None if image_folder is None else expand_user(image_folder)
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: no such folder; check --image-folder")
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; check the path")
    chosen, files = _recognize(place, format)
    return chosen.read(files, images)


def _recognize(place: Path, name: str | None) -> tuple[Format, list[Path]]:
    files = list(_data_files(place)) if place.is_dir() else [place]
    if name is not None and not place.is_dir():
        return _BY_NAME[name], files
    found: dict[str, list[Path]] = {}
    for file in files:
        head = _head(file)
        for each in _FORMATS if name is None else (_BY_NAME[name],):
            if each.claims(file, head):
                found.setdefault(each.name, []).append(file)
    if not found and name is None:
        # Of own data a folder is not searched below: what lies there may be anything.
        own = [f for f in files if f.parent == place or f == place]
        if own := [file for file in own if OWN.claims(file, _head(file))]:
            found[OWN.name] = own
    if not found:
        wanted = "" if name is None else f" of the format {name}"
        expected = "benchmark" if name is None else _BY_NAME[name].files
        raise DataError(
            f"{place}: no data file{wanted}; give the {expected} file or a folder with"
            " it"
        )
    if len(found) > 1:
        names = ", ".join(f"{key} ({files[0].name})" for key, files in found.items())
        raise DataError(
            f"{place}: holds several benchmarks: {names}; name the file, or one with"
            " --format"
        )
    ((key, chosen),) = found.items()
    return _BY_NAME[key], chosen


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{file}: {reason}; check the path") from error


def _data_files(folder: Path) -> Iterator[Path]:
    """Files that may be data, nearest first; hidden ones and folders are left out."""
    found: list[tuple[int, Path]] = []
    for place, folders, files in os.walk(folder, onerror=_fail):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if depth >= _DEPTH:
            folders.clear()
        for name in sorted(files):
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                found.append((depth, Path(place, name)))
    found.sort(key=lambda each: each[0])
    return (file for _, file in found)


def _fail(error: OSError) -> None:
    reason = (error.strerror or str(error)).lower()
    raise DataError(f"{error.filename}: {reason}; check its permissions") from error
