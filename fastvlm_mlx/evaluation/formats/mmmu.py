"""MMMU: college questions with images among text and options, of thirty subjects.

SUBJECT/validation-00000-of-00001.parquet (huggingface.co/datasets/MMMU/MMMU), of which
each row has

    id "validation_Accounting_1", question, options "['$6', '<image 2>']", answer "A",
    question_type "multiple-choice" or "open", image_1 to image_7

Asked as in lmms-eval (tasks/mmmu): the images that the text mentions come first, in
their order, and the text keeps `<image 1>` where they belong. dev has examples for
prompts, and the answers of test are not published.
"""

import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastvlm_mlx.data.parquet_rows import MAGIC, check_columns, columns_of, parquet_rows
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering
from fastvlm_mlx.evaluation.formats.json_file import NO_ANSWER, prefer
from fastvlm_mlx.evaluation.question import OPTION_LETTER, SHORT_ANSWER, Benchmark

_IMAGES = tuple(f"image_{number}" for number in range(1, 8))
_COLUMNS = ("id", "question", "options", "answer", "question_type")
_MENTIONED = re.compile(r"<image (\d)>")


def claims(path: Path, head: bytes) -> bool:
    """By the columns."""
    return head.startswith(MAGIC) and {*_COLUMNS, "image_1"} <= set(columns_of(path))


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads the validation sets of all subjects that are there."""
    files = prefer(files, ("validation",))
    gathering = Gathering(files[0], [])
    for path in files:
        check_columns(path, _COLUMNS)
        for number, row in enumerate(parquet_rows(path, _COLUMNS, _IMAGES), start=1):
            _add(f"{path}: question {number}", row, gathering)
    split = str(files[0].name).partition("-")[0]
    return gathering.finish(
        "mmmu", f"MMMU {split}", "mmmu", OPTION_LETTER, "download the file again"
    )


def _add(origin: str, row: dict[str, Any], gathering: Gathering) -> None:
    options, answers = listed(row["options"] or "[]"), listed(row["answer"])
    if not answers or answers == ["?"]:
        gathering.leave_out(NO_ANSWER)
        return
    question = row["question"] or ""
    mentioned = sorted(set(_MENTIONED.findall(f"{question} {options}"))) or ["1"]
    is_open = row["question_type"] == "open"
    gathering.add(
        row["id"],
        [row.get(f"image_{number}") for number in mentioned],
        question,
        answers,
        origin=origin,
        category=subject_of(str(row["id"])),
        choices=[] if is_open else options,
        suffix=SHORT_ANSWER if is_open else None,
    )


def subject_of(number: str) -> str:
    """The subject in "validation_Art_Theory_12": "Art Theory"."""
    return " ".join(number.split("_")[1:-1])


def listed(value: Any) -> list[str]:
    """A text, or the texts of a list that is written as one in Python."""
    if value is None or not str(value).strip():
        return []
    text = str(value).strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return [text]
        return [str(each) for each in found]
    return [text]


MMMU = Format("mmmu", "validation-00000-of-00001.parquet", claims, read)
