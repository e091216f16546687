"""OCRBench: a thousand questions about text in images, of ten kinds.

data/test-00000-of-00001.parquet (huggingface.co/datasets/echo840/OCRBench; written by
lmms-eval, tasks/ocrbench/upload_ocrbench.py), with the columns

    dataset, question, question_type, answer (a list), image

No suffix is published. The form of VLMEvalKit is read by `vlmevalkit`.
"""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.data.parquet_rows import MAGIC, check_columns, columns_of, parquet_rows
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering
from fastvlm_mlx.evaluation.question import Benchmark

_COLUMNS = ("dataset", "question", "question_type", "answer")


def claims(path: Path, head: bytes) -> bool:
    """By the columns."""
    return head.startswith(MAGIC) and {*_COLUMNS, "image"} <= set(columns_of(path))


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads the parts of the set that are there."""
    gathering = Gathering(files[0], [])
    number = 0
    for path in files:
        check_columns(path, (*_COLUMNS, "image"))
        for row in parquet_rows(path, _COLUMNS, ("image",)):
            number += 1
            gathering.add(
                str(number),
                [row["image"]],
                row["question"],
                row["answer"],
                origin=f"{path}: question {number}",
                category=row["question_type"],
            )
    way_out = "download the file again"
    return gathering.finish("ocrbench", "OCRBench", "contained", "", way_out)


OCRBENCH = Format("ocrbench", "test-00000-of-00001.parquet", claims, read)
