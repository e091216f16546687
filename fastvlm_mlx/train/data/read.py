"""Reads samples from a folder or a data file, whichever of the known shapes it has."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fastvlm_mlx.data import folder
from fastvlm_mlx.data.csv_rows import csv_rows
from fastvlm_mlx.data.faults import BadRow, Faults
from fastvlm_mlx.data.image_identity import identities
from fastvlm_mlx.data.image_reference import ImageFinder
from fastvlm_mlx.data.json_rows import json_rows
from fastvlm_mlx.data.located import Located, is_text, read_bytes
from fastvlm_mlx.errors import DataError
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.train.data.chat_shapes import llava_sample, openai_sample
from fastvlm_mlx.train.data.conversation import EmptyAnswer
from fastvlm_mlx.train.data.flat import (
    FailedCaption,
    flat_sample,
    is_cut_off,
    is_flat,
)
from fastvlm_mlx.train.data.report import DataReport, count
from fastvlm_mlx.train.data.samples import Image, Sample

QUESTION = "Describe the image."  # what `caption` asks


@dataclass
class _Reading:
    """Samples so far, and the counts of what is none."""

    question: str
    samples: list[Sample] = field(default_factory=list)
    empty_answers: int = 0
    failed: int = 0
    cut_off: set[str] = field(default_factory=set)
    faults: Faults = field(default_factory=Faults)
    notes: list[str] = field(default_factory=list)


def read_samples(
    path: str | Path,
    *,
    question: str = QUESTION,
    image_folder: str | Path | None = None,
    strict: bool = True,
) -> tuple[list[Sample], DataReport]:
    """Reads what there is to learn from; no image is decoded.

    `path` is one of these:

    - a folder of images with a `.txt` beside each, its own folders included, or a
      folder with one data file in it;
    - a table, CSV or TSV, with the columns `image` (or `file`, `file_name`, `path`) and
      `answer` (or `caption`, `text`), and `question` (or `prompt`) where there is one;
    - JSON lines, or a JSON list, of `conversations` (LLaVA), `messages` (OpenAI), or of
      objects with the names of such columns.

    What `fastvlm-mlx caption` writes is among them. Blanks around texts are dropped.

    Args:
        path: the folder or file.
        question: asked about an image where the data has no question.
        image_folder: where images lie; else beside the data file, or where the program
            runs.
        strict: refuses the data if a row is bad. Otherwise such rows are left out and
            in the report.
    Raises:
        DataError: bad rows, the first few named by file and line and the rest counted;
            nothing to learn from, or nothing with an image.
    """
    place = expand_user(path)
    reading = _Reading(question)
    if place.is_dir():
        _read_folder(place, reading, image_folder)
    else:
        _read_file(place, reading, image_folder)
    if strict:
        reading.faults.check("bad rows", "correct {them} or take {them} out")
    same = identities(image for each in reading.samples for image in each.images)
    samples = _without_duplicates(reading.samples, same)
    report = DataReport(
        path=str(path),
        samples=len(samples),
        images=len({same[image] for each in samples for image in each.images}),
        turns=sum(len(sample.turns) for sample in samples),
        text_only=sum(not sample.images for sample in samples),
        duplicates=len(reading.samples) - len(samples),
        empty_answers=reading.empty_answers,
        failed=reading.failed,
        cut_off=sum(sample.origin in reading.cut_off for sample in samples),
        faults=tuple(reading.faults),
        notes=tuple(reading.notes),
    )
    _check(report)
    return samples, report


def _check(report: DataReport) -> None:
    if not report.samples:
        found = report.left_out() or "no rows"
        raise DataError(
            f"{report.path}: nothing to learn from ({found}); give images with answers"
        )
    if report.text_only == report.samples:
        raise DataError(
            f"{report.path}: none of {count(report.samples, 'sample')} has an image;"
            " name each row's image as `image`, or train on text with mlx-lm"
        )


def _read_folder(
    place: Path, reading: _Reading, image_folder: str | Path | None
) -> None:
    found = folder.look_into(place)
    if len(found.data) > 1:
        names = ", ".join(file.name for file in found.data[:4])
        raise DataError(
            f"{place}: holds several data files ({names}); name one, such as"
            f" {found.data[0]}"
        )
    if found.data and found.pairs:
        raise DataError(
            f"{place}: holds {found.data[0].name} and also"
            f" {count(len(found.pairs), 'image')} with a .txt; name the data file, or"
            " move it away"
        )
    if found.data:
        return _read_file(found.data[0], reading, image_folder)
    if not found.pairs:
        there = "; ".join(found.notes()) or "no images"
        raise DataError(
            f"{place}: no image has a .txt of its name beside it, and there is no data"
            f" file ({there}); give captions.csv or photo.txt beside photo.jpg"
        )
    reading.notes += found.notes()
    finder = ImageFinder([Path()])
    for image, text in found.pairs:
        _add_text(image, text, finder, reading)


def _add_text(image: Path, text: Path, finder: ImageFinder, reading: _Reading) -> None:
    try:
        data = text.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        reading.faults.add(f"{text}: {(error.strerror or str(error)).lower()}")
        return
    try:
        answer = data.decode("utf-8")
        if "\0" in answer:
            raise UnicodeDecodeError("utf-8", data, data.index(0), 1, "a zero byte")
    except UnicodeDecodeError as error:
        line = 1 + data[: error.start].count(b"\n")
        reading.faults.add(f"{text}:{line}: not UTF-8; save the file as UTF-8")
        return
    row = Located(1, {"image": str(image.absolute()), "text": answer})
    _add(row, str(text), finder, reading, table=True)


def _read_file(place: Path, reading: _Reading, image_folder: str | Path | None) -> None:
    data = read_bytes(place)
    suffix = place.suffix.lower()
    table = suffix in (".csv", ".tsv")
    rows: Iterator[Located] | list[Located]
    if table:
        rows = csv_rows(place, data)
    elif suffix in folder.DATA_SUFFIXES or data.lstrip()[:1] in (b"{", b"["):
        rows = json_rows(data)
    else:
        raise DataError(
            f"{place}: no data to learn from; give a folder, or a file called .csv,"
            " .tsv, .json or .jsonl"
        )
    folders = [place.parent, Path()] if image_folder is None else [image_folder]
    finder = ImageFinder([expand_user(each).absolute() for each in folders])
    for row in rows:
        _add(row, f"{place}:{row.line}", finder, reading, table=table)


def _add(
    row: Located, origin: str, finder: ImageFinder, reading: _Reading, *, table: bool
) -> None:
    """Adds the sample of a row, or counts why it is none."""
    try:
        if row.values is None:
            raise BadRow(row.fault)
        sample = _sample(row.values, finder, reading.question, table=table)
    except BadRow as fault:
        reading.faults.add(f"{origin}: {fault}")
    except EmptyAnswer:
        reading.empty_answers += 1
    except FailedCaption:
        reading.failed += 1
    else:
        reading.samples.append(replace(sample, origin=origin))
        if is_cut_off(row.values):
            reading.cut_off.add(origin)


def _sample(
    values: Mapping[str, Any], finder: ImageFinder, question: str, *, table: bool
) -> Sample:
    if not table and "conversations" in values:
        return llava_sample(values, finder, question)
    if not table and "messages" in values:
        return openai_sample(values, finder, question)
    if is_flat(values):
        return flat_sample(values, finder, question, table=table)
    names = ", ".join(map(str, list(values)[:5])) or "nothing"
    if not is_text(names):
        names = "names that are not UTF-8"
    raise BadRow(f"holds {names}; give conversations, messages, or image and answer")


def _without_duplicates(
    samples: Sequence[Sample], same: Mapping[Image, str]
) -> list[Sample]:
    """The first of those with the same texts about the same images."""
    kept: dict[tuple[object, ...], Sample] = {}
    for sample in samples:
        images = tuple(same[image] for image in sample.images)
        key = (images, sample.turns, sample.system, sample.images_by_turn)
        kept.setdefault(key, sample)
    return list(kept.values())
