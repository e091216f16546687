"""DocVQA and InfographicVQA: questions about scanned pages and infographics.

val_v1.0_withQT.json of SP-DocVQA, and infographicsVQA_val_v1.0_withQT.json
(rrc.cvc.uab.es/?ch=17, downloads; the Q&A files of tasks 1 and 3):

    {"dataset_name": ..., "data": [{"questionId": 49153, "question": ...,
        "question_types": ["figure/diagram"], "image": "documents/pybv0228_81.png",
        "docId": 14465, "answers": ["0.28"], ...}]}

with spdocvqa_images/pybv0228_81.png, or documents/ in older downloads. InfographicVQA
has `image_local_name` and infographicsvqa_images/. Test answers are not published.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

_SPLIT = re.compile("train|val|test")


@dataclass(frozen=True)
class _Kind:
    """One of the two, told apart by the field that names the image."""

    name: str
    label: str
    image: str
    mark: bytes
    folders: tuple[str, ...]

    def claims(self, path: Path, head: bytes) -> bool:
        return path.suffix.lower() == ".json" and self.mark in head

    def read(self, files: Sequence[Path], image_folder: Path | None) -> Benchmark:
        path = only(prefer(files, ("val_",)))
        gathering = Gathering(
            path, image_folders(path, image_folder, self.folders), f"{self.folders[0]}/"
        )
        document = read_json(path)
        for origin, row in numbered(path, rows_of(path, document, "data")):
            if not row.get("answers"):
                gathering.leave_out(NO_ANSWER)
                continue
            gathering.add(
                row.get("questionId"),
                _names(row.get(self.image)),
                row.get("question"),
                row["answers"],
                origin=origin,
                category=_category(row),
            )
        named = _SPLIT.search(path.name)
        split = document.get("dataset_split") or (named[0] if named else "")
        return gathering.finish(
            self.name, f"{self.label} {split}".strip(), "anls", SHORT_ANSWER
        )


def _names(image: Any) -> list[Any]:
    """What a page may be called: newer downloads have no folder documents/."""
    if not isinstance(image, str):
        return [image]
    return [(image, image.rpartition("/")[2])]


def _category(row: Mapping[str, Any]) -> str:
    types = row.get("question_types") or []
    if not isinstance(types, list):
        return ""
    return str(types[0]) if len(types) == 1 else "several types" if types else ""


_DOCVQA = _Kind(
    "docvqa",
    "DocVQA",
    "image",
    b'"ucsf_document_id"',
    ("spdocvqa_images", "documents", "val/documents", "val"),
)
_INFOVQA = _Kind(
    "infovqa",
    "InfoVQA",
    "image_local_name",
    b'"image_local_name"',
    ("infographicsvqa_images", "infographicVQA_val_v1.0_images", "images"),
)
DOCVQA = Format("docvqa", "val_v1.0_withQT.json", _DOCVQA.claims, _DOCVQA.read)
INFOVQA = Format(
    "infovqa", "infographicsVQA_val_v1.0_withQT.json", _INFOVQA.claims, _INFOVQA.read
)
