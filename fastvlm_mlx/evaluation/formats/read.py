"""Reads a benchmark from what was downloaded, recognized by its files."""

import os
from collections.abc import Iterator
from pathlib import Path

from fastvlm_mlx.data.folder import DATA_SUFFIXES
from fastvlm_mlx.data.parquet_rows import MAGIC
from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.formats.chartqa import CHARTQA
from fastvlm_mlx.evaluation.formats.docvqa import DOCVQA, INFOVQA
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gqa import GQA
from fastvlm_mlx.evaluation.formats.mmmu import MMMU
from fastvlm_mlx.evaluation.formats.ocrbench import OCRBENCH
from fastvlm_mlx.evaluation.formats.own import OWN
from fastvlm_mlx.evaluation.formats.pope import POPE
from fastvlm_mlx.evaluation.formats.scienceqa import SCIENCEQA
from fastvlm_mlx.evaluation.formats.seedbench import SEEDBENCH
from fastvlm_mlx.evaluation.formats.textvqa import TEXTVQA
from fastvlm_mlx.evaluation.formats.vlmevalkit import VLMEVALKIT
from fastvlm_mlx.evaluation.question import Benchmark
from fastvlm_mlx.files.user_path import expand_user

_FORMATS: tuple[Format, ...] = (
    TEXTVQA,
    DOCVQA,
    INFOVQA,
    CHARTQA,
    GQA,
    POPE,
    SCIENCEQA,
    SEEDBENCH,
    MMMU,
    OCRBENCH,
    VLMEVALKIT,
)
_BY_NAME = {each.name: each for each in (*_FORMATS, OWN)}
FORMATS = tuple(_BY_NAME)

_DEPTH = 3  # folders below the one given
_HEAD = 1 << 14  # bytes by which a file is recognized
_SUFFIXES = (*DATA_SUFFIXES, ".parquet")
# A folder with more is of records, such as what OCR found on each page of DocVQA.
_MOST = 100


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
    """The format and its files."""
    if not place.is_dir() and name is not None:
        return _BY_NAME[name], [place]
    files = list(_data_files(place)) if place.is_dir() else [place]
    heads = {file: _head(file) for file in files}
    found: dict[str, list[Path]] = {}
    for each in _FORMATS if name is None else (_BY_NAME[name],):
        if claimed := [file for file in files if each.claims(file, heads[file])]:
            found[each.name] = claimed
    if name in (None, OWN.name) and not found.keys() - {OWN.name}:
        # Below a folder of own data anything may lie.
        top = [file for file in files if file == place or file.parent == place]
        found = {OWN.name: [file for file in top if OWN.claims(file, heads[file])]}
    found = {key: claimed for key, claimed in found.items() if claimed}
    if len(found) > 1:
        names = ", ".join(f"{key} ({each[0].name})" for key, each in found.items())
        raise DataError(
            f"{place}: holds several benchmarks: {names}; name the file, or choose one"
            " with --format"
        )
    if not found:
        raise _nothing(place, name, heads)
    ((key, chosen),) = found.items()
    return _BY_NAME[key], chosen


def _nothing(place: Path, name: str | None, heads: dict[Path, bytes]) -> DataError:
    for file, head in heads.items():
        if file.suffix.lower() == ".parquet" and not head.startswith(MAGIC):
            return DataError(f"{file}: not a parquet file; download it again")
    if name is not None:
        return DataError(f"{place}: no {name} in it; give {_BY_NAME[name].files}")
    return DataError(
        f"{place}: no benchmark is recognized in it; give its data file, or own"
        " questions as .csv or .jsonl"
    )


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
        names = [
            name
            for name in sorted(files)
            if name.lower().endswith(_SUFFIXES) and not name.startswith(".")
        ]
        if len(names) <= _MOST:
            found += [(depth, Path(place, name)) for name in names]
    found.sort(key=lambda each: each[0])
    return (file for _, file in found)


def _fail(error: OSError) -> None:
    reason = (error.strerror or str(error)).lower()
    raise DataError(f"{error.filename}: {reason}; check its permissions") from error
