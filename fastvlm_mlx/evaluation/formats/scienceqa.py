"""ScienceQA: questions of school with options; those with an image are asked (IMG).

problems.json and pid_splits.json (github.com/lupantech/ScienceQA, data/scienceqa):

    {"4": {"question": ..., "choices": [...], "answer": 0, "hint": "",
           "image": "image.png", "subject": "natural science", ...}}
    {"test": ["4", ...], "val": ..., "train": ...}

with images/test/4/image.png. Asked as lmms-eval does (tasks/scienceqa/utils.py), which
follows LLaVA's questions: "Context: " and the hint, the question, lettered options.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering, image_folders
from fastvlm_mlx.evaluation.formats.json_file import read_json
from fastvlm_mlx.evaluation.question import OPTION_LETTER, Benchmark

_PROBLEMS, _SPLITS = "problems.json", "pid_splits.json"
_SPLIT = "test"


def claims(path: Path, head: bytes) -> bool:
    """By the names, which are fixed."""
    return path.name == _SPLITS or (path.name == _PROBLEMS and b'"choices"' in head)


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads the test set."""
    folder = files[0].parent
    for name in (_PROBLEMS, _SPLITS):
        if not (folder / name).is_file():
            raise DataError(
                f"{folder}: no {name}; ScienceQA needs {_PROBLEMS} and {_SPLITS} in"
                " one folder"
            )
    problems, splits = read_json(folder / _PROBLEMS), read_json(folder / _SPLITS)
    numbers = splits.get(_SPLIT) if isinstance(splits, Mapping) else None
    if not isinstance(numbers, list) or not isinstance(problems, Mapping):
        raise DataError(
            f"{folder / _SPLITS}: no list of {_SPLIT} problems; download the file again"
        )
    names = (f"images/{_SPLIT}", _SPLIT, "images")
    path = folder / _PROBLEMS
    gathering = Gathering(
        path, image_folders(path, image_folder, names), f"images/{_SPLIT}/"
    )
    for number in numbers:
        problem = problems.get(str(number))
        if not isinstance(problem, Mapping):
            gathering.faults.add(f"{path}: no problem {number}, which {_SPLITS} names")
        elif not problem.get("image"):
            gathering.leave_out("it has no image")
        else:
            _add(str(number), problem, gathering)
    return gathering.finish(
        "scienceqa", "ScienceQA-IMG test", "scienceqa", OPTION_LETTER
    )


def _add(number: str, problem: Mapping[str, Any], gathering: Gathering) -> None:
    origin = f"{gathering.path}: problem {number}"
    answer, hint, text = (problem.get(key) for key in ("answer", "hint", "question"))
    if not isinstance(answer, int) or not 0 <= answer < len(ascii_uppercase):
        gathering.faults.add(f"{origin}: the answer is no number of a choice")
        return
    gathering.add(
        number,
        f"{number}/{problem['image']}",
        f"Context: {hint}\n{text}" if hint and text else text,
        ascii_uppercase[answer],
        origin=origin,
        category=problem.get("subject"),
        choices=problem.get("choices"),
    )


SCIENCEQA = Format("scienceqa", "problems.json", claims, read)
