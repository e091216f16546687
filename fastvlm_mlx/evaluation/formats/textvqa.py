"""TextVQA: questions about the text in photographs, answered by ten people each.

TextVQA_0.5.1_val.json (textvqa.org/dataset):

    {"data": [{"question_id": 34602, "image_id": "003a8ae2ef43b901",
               "question": ..., "answers": [ten texts]}]}

and train_images/003a8ae2ef43b901.jpg; images of val are among those of train. Asked as
in LLaVA's docs/Evaluation.md, but without the list of OCR tokens that LLaVA adds: the
paper of FastVLM does not mention one. Answers of the test set are not published.
"""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering, image_folders
from fastvlm_mlx.evaluation.formats.json_file import (
    NO_ANSWER,
    numbered,
    only,
    prefer,
    read_json,
    rows_of,
)
from fastvlm_mlx.evaluation.question import SHORT_ANSWER, Benchmark

_IMAGES = ("train_images", "train_val_images/train_images", "images")


def claims(path: Path, head: bytes) -> bool:
    """By the name, or by the fields of a question."""
    if path.suffix.lower() != ".json":
        return False
    named = path.name.lower().startswith("textvqa_")
    return named or all(key in head for key in (b'"image_id"', b'"image_classes"'))


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads the file of val, or the one that there is."""
    path = only(prefer(files, ("val",)))
    gathering = Gathering(
        path, image_folders(path, image_folder, _IMAGES), "train_images/"
    )
    rows = rows_of(path, read_json(path), "data")
    for origin, row in numbered(path, rows):
        if not row.get("answers"):
            gathering.leave_out(NO_ANSWER)
            continue
        image = row.get("image_id")
        gathering.add(
            row.get("question_id"),
            None if image is None else f"{image}.jpg",
            row.get("question"),
            row["answers"],
            origin=origin,
        )
    label = f"TextVQA {rows[0].get('set_name', 'val') if rows else ''}".strip()
    return gathering.finish("textvqa", label, "vqa", SHORT_ANSWER)


TEXTVQA = Format("textvqa", "TextVQA_0.5.1_val.json", claims, read)
