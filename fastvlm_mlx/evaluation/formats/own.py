"""Own questions: a table, JSON lines, or a folder with questions.json.

    image,question,answer                     a CSV or TSV, the first line naming these
    {"image": ..., "question": ..., "answer": ...}         a line of JSON for each
    {"photo.jpg": [{"kind": ..., "question": ..., "answer": ...}]}   questions.json

Also `category`, `id`, `images` (a list), `answers` (a list, or a text with "|" between
those that are accepted) and `choices` (the same), whose answer is the letter or the
text of one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from fastvlm_mlx.data.column_names import ANSWERS, IMAGES, QUESTIONS, first_value
from fastvlm_mlx.data.csv_rows import csv_rows
from fastvlm_mlx.data.faults import BadRow
from fastvlm_mlx.data.folder import DATA_SUFFIXES
from fastvlm_mlx.data.json_rows import json_rows
from fastvlm_mlx.data.located import Located, read_bytes
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering, image_folders
from fastvlm_mlx.evaluation.formats.json_file import only
from fastvlm_mlx.evaluation.question import OPTION_LETTER, Benchmark
from fastvlm_mlx.evaluation.scoring import kind_of

_IMAGES = ("images", *IMAGES)
_RIGHT = ("answers", *ANSWERS)
_CATEGORIES = ("category", "kind", "type")
_IDS = ("id", "question_id", "index")


def claims(path: Path, head: bytes) -> bool:
    """By the ending alone; any other format goes before."""
    return path.suffix.lower() in DATA_SUFFIXES


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads one file.

    Raises:
        DataError: several files, or bad rows.
    """
    path = only(files)
    data = read_bytes(path)
    gathering = Gathering(path, [*image_folders(path, image_folder), Path()])
    if (by_image := _by_image(data)) is not None:
        _add_by_image(by_image, gathering)
    else:
        for row in _rows(path, data):
            _add(row, f"{path}:{row.line}", gathering)
    return _finish(gathering, short=by_image is not None)


def _finish(gathering: Gathering, *, short: bool) -> Benchmark:
    found = gathering.questions
    with_choices = [question for question in found if question.choices]
    if with_choices and len(with_choices) < len(found):
        without = next(question for question in found if not question.choices)
        gathering.faults.add(f"{without.origin}: has no choices, others have")
        return gathering.finish("own", "", "", way_out="put {them} into another file")
    metric, suffix = "letter", OPTION_LETTER
    if not with_choices:
        metric, suffix = kind_of([a for each in found for a in each.answers]), ""
        # One long answer among many short ones does not make all of them texts.
        metric = "exact" if short and metric == "text" else metric
    return gathering.finish("own", gathering.path.name, metric, suffix)


def _rows(path: Path, data: bytes) -> Sequence[Located]:
    if path.suffix.lower() in (".csv", ".tsv"):
        needed = (_IMAGES, QUESTIONS, _RIGHT)
        return csv_rows(path, data, needed, "image,question,answer")
    return list(json_rows(data))


def _add(row: Located, origin: str, gathering: Gathering) -> None:
    if row.values is None:
        gathering.faults.add(f"{origin}: {row.fault}")
        return
    values = row.values
    try:
        choices = _split(first_value(values, ("choices", "options")))
        answers = _split(first_value(values, _RIGHT))
        gathering.add(
            str(row.line) if (own_id := first_value(values, _IDS)) is None else own_id,
            _named(first_value(values, _IMAGES)),
            first_value(values, QUESTIONS),
            [_letter(answer, choices) for answer in answers] if choices else answers,
            origin=origin,
            category=first_value(values, _CATEGORIES),
            choices=choices,
        )
    except BadRow as fault:
        gathering.faults.add(f"{origin}: {fault}")


def _split(value: Any) -> list[Any]:
    """The parts of a list, or of a text with "|" between them; JSON stays whole."""
    if value is None:
        return []
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return [json.dumps(value, ensure_ascii=False)]
    if isinstance(value, str) and not value.lstrip().startswith(("{", "[")):
        return value.split("|")
    return [value]


def _named(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _letter(answer: Any, choices: Sequence[Any]) -> str:
    """The letter of the right choice, of which the data gives letter or text."""
    text = str(answer).strip()
    letters = ascii_uppercase[: len(choices)]
    by_text = [
        letter
        for letter, choice in zip(letters, choices, strict=False)
        if str(choice).strip() == text
    ]
    by_letter = [text] if len(text) == 1 and text in letters else []
    found = sorted({*by_text, *by_letter})
    if len(found) > 1:
        raise BadRow(f"the answer {text[:40]} may be choice {' or '.join(found)}")
    return found[0] if found else text


def _by_image(data: bytes) -> Mapping[str, Any] | None:
    """A JSON object of lists of questions by the name of their image, if it is one."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not found:
        return None
    lists = all(
        isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        for rows in found.values()
    )
    return found if lists else None


def _add_by_image(by_image: Mapping[str, Any], gathering: Gathering) -> None:
    for image, rows in by_image.items():
        for number, values in enumerate(rows, start=1):
            place = f"{image}:{number}"
            row = Located(0, {"image": image, "id": place, **values})
            _add(row, f"{gathering.path}: {image}, question {number}", gathering)


OWN = Format("own", "a .csv, .tsv, .jsonl or .json", claims, read)
