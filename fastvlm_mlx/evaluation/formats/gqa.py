"""GQA: questions about the objects of photographs and how they relate.

testdev_balanced_questions.json of questions1.2.zip (cs.stanford.edu/people/dorarad/gqa,
download), asked as in LLaVA's docs/Evaluation.md:

    {"201307251": {"imageId": "n161313", "question": ..., "answer": "no",
                   "types": {"structural": "verify", ...}, ...}}

with images/n161313.jpg. The structural type is the category, as in GQA's own report.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering, image_folders
from fastvlm_mlx.evaluation.formats.json_file import NO_ANSWER, only, prefer, read_json
from fastvlm_mlx.evaluation.question import SHORT_ANSWER, Benchmark


def claims(path: Path, head: bytes) -> bool:
    """By the fields of a question."""
    keys = (b'"imageId"', b'"question"', b'"isBalanced"')
    return path.suffix.lower() == ".json" and all(key in head for key in keys)


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads the balanced questions of testdev, or the file that there is."""
    path = only(prefer(files, ("testdev_balanced", "testdev")))
    gathering = Gathering(
        path, image_folders(path, image_folder, ("images",)), "images/"
    )
    document = read_json(path)
    if not isinstance(document, Mapping):
        raise DataError(f"{path}: no questions by id; download the file again")
    for number, row in document.items():
        origin = f"{path}: question {number}"
        if not isinstance(row, Mapping):
            gathering.faults.add(f"{origin}: is no object")
            continue
        if not row.get("answer"):
            gathering.leave_out(NO_ANSWER)
            continue
        image, types = row.get("imageId"), row.get("types")
        gathering.add(
            number,
            None if image is None else f"{image}.jpg",
            row.get("question"),
            row["answer"],
            origin=origin,
            category=types.get("structural") if isinstance(types, Mapping) else "",
        )
    split = path.stem.removesuffix("_questions").replace("_", " ")
    return gathering.finish("gqa", f"GQA {split}", "gqa", SHORT_ANSWER)


GQA = Format("gqa", "testdev_balanced_questions.json", claims, read)
