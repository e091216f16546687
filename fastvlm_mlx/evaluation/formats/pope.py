"""POPE: whether an object is in a photograph, half of the answers being no.

coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json
(github.com/AoiDragon/POPE, output/coco), a line of JSON for each question:

    {"question_id": 1, "image": "COCO_val2014_000000310196.jpg",
     "text": "Is there a snowboard in the image?", "label": "yes"}

with val2014/COCO_val2014_000000310196.jpg of COCO. The three files count from 1 each.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.data.json_rows import json_rows
from fastvlm_mlx.data.located import read_bytes
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering, image_folders
from fastvlm_mlx.evaluation.question import SHORT_ANSWER, Benchmark

_KEYS = (b'"question_id"', b'"image"', b'"text"', b'"label"')
_HARDNESS = re.compile("random|popular|adversarial")


def claims(path: Path, head: bytes) -> bool:
    """By the fields of a question; LLaVA's own list of them has no label."""
    first = head.partition(b"\n")[0]
    suffix = path.suffix.lower()
    return suffix in (".json", ".jsonl") and all(key in first for key in _KEYS)


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads all of them."""
    folders = image_folders(files[0], image_folder, ("val2014", "images"))
    gathering = Gathering(files[0].parent, folders, "val2014/")
    for path in files:
        hardness = _HARDNESS.search(path.stem.lower())
        category = hardness[0] if hardness else path.stem
        for row in json_rows(read_bytes(path)):
            origin = f"{path}:{row.line}"
            if row.values is None:
                gathering.faults.add(f"{origin}: {row.fault}")
                continue
            label = row.values.get("label")
            if str(label).lower() not in ("yes", "no"):
                gathering.faults.add(f"{origin}: the label is neither yes nor no")
                continue
            gathering.add(
                f"{category}-{row.values.get('question_id')}",
                row.values.get("image"),
                row.values.get("text"),
                label,
                origin=origin,
                category=category,
            )
    return gathering.finish("pope", "POPE", "yes_no", SHORT_ANSWER)


POPE = Format("pope", "coco_pope_random.json", claims, read)
