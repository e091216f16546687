"""SEED-Bench: questions with four options; those about images are asked.

SEED-Bench.json (huggingface.co/datasets/AILab-CVC/SEED-Bench; DATASET.md of
github.com/AILab-CVC/SEED-Bench), asked as in LLaVA's docs/Evaluation.md:

    {"questions": [{"answer": "A", "choice_a": ..., "choice_d": ...,
        "data_id": "1454426_2591111986", "data_type": "image", "question": ...,
        "question_id": "101669", "question_type_id": 5}],
     "question_type": {"Instances Counting": 5, ...}}

with SEED-Bench-image/1454426_2591111986. SEED-Bench-2 has "Single Image" and "Multiple
Images" (a list of files) as types, and no names of them. Videos are left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering, image_folders
from fastvlm_mlx.evaluation.formats.json_file import (
    numbered,
    only,
    prefer,
    read_json,
    rows_of,
)
from fastvlm_mlx.evaluation.question import OPTION_LETTER, Benchmark

_FIRST = "image"
_SECOND = ("Single Image", "Multiple Images")
_FOLDERS = ("SEED-Bench-image", "cc3m-image", "SEED-Bench-2-image", "images")


def claims(path: Path, head: bytes) -> bool:
    """By the fields of a question."""
    keys = (b'"choice_a"', b'"question_type_id"', b'"data_id"')
    return path.suffix.lower() == ".json" and all(key in head for key in keys)


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads the questions about images."""
    path = only(prefer(files, ("seed-bench.json",)))
    gathering = Gathering(
        path, image_folders(path, image_folder, _FOLDERS), "SEED-Bench-image/"
    )
    document = read_json(path)
    types, second = _type_names(document), False
    for origin, row in numbered(path, rows_of(path, document, "questions")):
        kind = row.get("data_type")
        if kind not in (_FIRST, *_SECOND):
            gathering.leave_out(f"it is of the type {str(kind).lower()}, not of images")
            continue
        second = second or kind != _FIRST
        number = row.get("question_type_id")
        choices = [row.get(f"choice_{letter}") for letter in "abcd"]
        gathering.add(
            row.get("question_id"),
            row.get("data_id"),
            row.get("question"),
            row.get("answer"),
            origin=origin,
            category=types.get(number) or row.get("subpart") or number,
            choices=[choice for choice in choices if choice is not None],
        )
    name, label = "seedbench", "SEED-Bench image"
    if second:
        name, label = "seedbench2", "SEED-Bench-2 image"
    return gathering.finish(name, label, "letter", OPTION_LETTER)


def _type_names(document: Any) -> dict[Any, str]:
    types = document.get("question_type") if isinstance(document, Mapping) else None
    types = types if isinstance(types, Mapping) else {}
    return {number: name for name, number in types.items()}


SEEDBENCH = Format("seedbench", "SEED-Bench.json", claims, read)
