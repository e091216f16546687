"""Small benchmarks on disk that are tables: parquet files and VLMEvalKit's TSV.

As `benchmark_sets.py`, which has those that are JSON beside folders of images.
"""

import base64
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.support.benchmark_sets import Row, image_bytes


def parquet(path: Path, rows: Sequence[Mapping[str, Any]], group: int = 1000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    pyarrow.parquet.write_table(table, path, row_group_size=group)


def stored(shade: int) -> Row:
    return {"bytes": image_bytes(shade), "path": f"{shade}.png"}


def mmmu(root: Path, **more: Any) -> Path:
    """Two subjects, each a folder with dev, validation and test."""
    blank: Row = {f"image_{number}": None for number in range(1, 8)}
    for subject in ("Accounting", "Art_Theory"):
        row: Row = {
            "id": f"validation_{subject}_1",
            "question": "<image 1> Baxter Company has ... Which is right?",
            "options": "['$6', '<image 3>', \"Baxter's\", '$8']",
            "explanation": "",
            **blank,
            "image_1": stored(1),
            "image_2": stored(2),
            "image_3": stored(3),
            "img_type": "['Tables']",
            "answer": "B",
            "topic_difficulty": "Medium",
            "question_type": "multiple-choice",
            "subfield": "Managerial Accounting",
        }
        unlike = {
            "id": f"validation_{subject}_2",
            "question": "How much is it?",
            "options": "[]",
            "answer": "['6.23', '$6.23']",
            "question_type": "open",
        }
        rows = [row, {**row, **unlike, **more}]
        place = root / subject
        parquet(place / "validation-00000-of-00001.parquet", rows, group=1)
        dev = [{**row, "id": f"dev_{subject}_1"}]
        parquet(place / "dev-00000-of-00001.parquet", dev)
        hidden = [{**row, "id": f"test_{subject}_1", "answer": "?"}]
        parquet(place / "test-00000-of-00001.parquet", hidden)
    return root


def ocrbench(root: Path) -> Path:
    """data/test-00000-of-00001.parquet of the hub."""
    rows = [
        {
            "dataset": "IIIT5K",
            "question": "what is written in the image?",
            "question_type": "Regular Text Recognition",
            "answer": ["CENTRE", "CENTER"],
            "image": stored(1),
        },
        {
            "dataset": "HME100k",
            "question": "Please write out the expression.",
            "question_type": "Handwritten Mathematical Expression Recognition",
            "answer": ["x ^ { 2 }"],
            "image": stored(2),
        },
    ]
    parquet(root / "data" / "test-00000-of-00001.parquet", rows)
    return root


def tsv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A table as pandas writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), dialect="excel-tab", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


def base64_of(shade: int) -> str:
    return base64.b64encode(image_bytes(shade)).decode()


def ai2d(root: Path, **more: Any) -> Path:
    """AI2D_TEST.tsv: options, and an image that the second row shares."""
    row = {
        "index": 0,
        "image": base64_of(1),
        "question": "which of these define dairy item",
        "A": "c",
        "B": "D",
        "C": "b",
        "D": "a",
        "answer": "B",
        "category": "foodChainsWebs",
        "image_path": "0.png",
    }
    second = {
        "index": 1,
        "image": "0",
        "question": 'what is "x"?\nSay it.',
        "C": "",
        "D": "",
        "answer": "A",
        **more,
    }
    return tsv(root / "AI2D_TEST.tsv", [row, {**row, **second}])
