"""ChartQA: questions about charts, written by people and generated from summaries.

test_human.json and test_augmented.json (github.com/vis-nlp/ChartQA, ChartQA Dataset):

    [{"imgname": "41699051005347.png", "query": ..., "label": "14"}]

with png/41699051005347.png. The two halves are of one size, so the mean over all
questions is the mean of the halves; each is a category.
"""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering, image_folders
from fastvlm_mlx.evaluation.formats.json_file import (
    numbered,
    prefer,
    read_json,
    rows_of,
)
from fastvlm_mlx.evaluation.question import SHORT_ANSWER, Benchmark


def claims(path: Path, head: bytes) -> bool:
    """By the fields of a question."""
    keys = (b'"imgname"', b'"query"', b'"label"')
    return path.suffix.lower() == ".json" and all(key in head for key in keys)


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads both halves of the test set, or the file that there is."""
    files = prefer(files, ("test_", "val_", "train_"))
    folders = [place for file in files for place in image_folders(file, image_folder)]
    named = [
        place for file in files for place in image_folders(file, image_folder, ("png",))
    ]
    gathering = Gathering(files[0].parent, [*named, *folders], "png/")
    for path in files:
        half = path.stem.rpartition("_")[2]
        rows = rows_of(path, read_json(path), None)
        for number, (origin, row) in enumerate(numbered(path, rows), start=1):
            gathering.add(
                f"{half}-{number}",
                row.get("imgname"),
                row.get("query"),
                row.get("label"),
                origin=origin,
                category=half,
            )
    split = files[0].stem.partition("_")[0]
    return gathering.finish("chartqa", f"ChartQA {split}", "relaxed", SHORT_ANSWER)


CHARTQA = Format("chartqa", "test_human.json and test_augmented.json", claims, read)
