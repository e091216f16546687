"""The tables of VLMEvalKit: one TSV with everything in it, images included.

docs/en/Development.md and vlmeval/dataset of github.com/open-compass/VLMEvalKit: the
columns index, question, answer, and `image` (base64, or a list of them, or the index of
a row that has the image) or `image_path`; of some sets also hint, A to Z (options),
category and split. The file's name, such as AI2D_TEST.tsv, says how it is scored.

Options are asked for as VLMEvalKit asks LLaVA (vlmeval/vlm/llava/llava.py): the hint,
the question, lettered options, "Answer with the option's letter ...".
"""

from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

from fastvlm_mlx.data.faults import BadRow
from fastvlm_mlx.data.large_table import TableRow, header_of, table_rows
from fastvlm_mlx.data.stored_image import Base64Slice
from fastvlm_mlx.evaluation.formats.format import Format
from fastvlm_mlx.evaluation.formats.gathering import Gathering, image_folders
from fastvlm_mlx.evaluation.formats.json_file import NO_ANSWER, only
from fastvlm_mlx.evaluation.formats.mmmu import listed
from fastvlm_mlx.evaluation.formats.tables import Table, table_of
from fastvlm_mlx.evaluation.question import (
    OPTION_LETTER,
    SHORT_ANSWER,
    Benchmark,
    Question,
)

_SHORT = 64  # letters of what refers to another row instead of being an image
_NO_IMAGE = "it has no image"


def claims(path: Path, head: bytes) -> bool:
    """By the columns."""
    if path.suffix.lower() != ".tsv":
        return False
    names = set(header_of(head))
    return {"index", "question"} <= names and bool({"image", "image_path"} & names)


def read(files: Sequence[Path], image_folder: Path | None) -> Benchmark:
    """Reads one table; images are found and not decoded."""
    path = only(files)
    table = table_of(path.stem)
    names = (f"images/{path.stem}", "images")
    gathering = Gathering(path, image_folders(path, image_folder, names))
    stored: dict[str, list[Base64Slice]] = {}
    waiting: list[tuple[TableRow, dict[str, str]]] = []
    for row in table_rows(path):
        origin = f"{path}:{row.line}"
        if row.fields is None:
            gathering.faults.add(f"{origin}: {row.fault}")
            continue
        fields = row.fields
        if _is_base64(fields.get("image", "")):
            slices = _slices(path, row, listed(fields["image"]))
            stored[fields.get("index", "")] = slices
            fields = {**fields, "image": ""}
        # Only the text: of an image the bytes would stay in memory.
        waiting.append((TableRow(row.line, row.start, b"", None), fields))
    for row, fields in waiting:
        try:
            _add(f"{path}:{row.line}", fields, table, stored, gathering)
        except BadRow as fault:
            gathering.faults.add(f"{path}:{row.line}: {fault}")
    metric, suffix = _how(gathering.questions, table)
    way_out = "download the file again"
    return gathering.finish(table.name, table.label, metric, suffix, way_out)


def _is_base64(text: str) -> bool:
    # Base64 has no full stop, and the path of an image has one.
    return len(text) > _SHORT and "." not in text[: 4 * _SHORT]


def _slices(path: Path, row: TableRow, texts: Sequence[str]) -> list[Base64Slice]:
    origin = f"{path}:{row.line}"
    return [Base64Slice(path, row.place_of(text), len(text), origin) for text in texts]


def _add(
    origin: str,
    fields: dict[str, str],
    table: Table,
    stored: dict[str, list[Base64Slice]],
    gathering: Gathering,
) -> None:
    if table.split and fields.get("split", table.split) != table.split:
        gathering.leave_out(f"it is of the split {fields['split']}")
        return
    answers = listed(fields.get("answer"))
    if not answers:
        gathering.leave_out(NO_ANSWER)
        return
    images = _images(fields, stored)
    if not images:
        gathering.leave_out(_NO_IMAGE)
        return
    hint, text = fields.get("hint", "").strip(), fields.get("question", "")
    choices = _choices(fields)
    gathering.add(
        fields.get("index"),
        images,
        f"{hint}\n{text}" if hint else text,
        answers,
        origin=origin,
        category=fields.get("category") or fields.get("split"),
        choices=choices,
        suffix=None if choices or table.suffix is not None else SHORT_ANSWER,
    )


def _images(
    fields: dict[str, str], stored: dict[str, list[Base64Slice]]
) -> list[str | Base64Slice]:
    """Those of the row, of the row that it refers to, or the names of files."""
    if own := stored.get(fields.get("index", "")):
        return list(own)
    reference = fields.get("image", "").strip()
    if reference in stored:
        return list(stored[reference])
    if reference.isdecimal():
        raise BadRow(f"the image is that of row {reference}, which has none")
    return list(listed(reference or fields.get("image_path")))


def _choices(fields: dict[str, str]) -> list[str]:
    given = [fields.get(letter, "").strip() for letter in ascii_uppercase]
    last = max((n for n, text in enumerate(given, start=1) if text), default=0)
    return given[:last]


def _how(questions: Sequence[Question], table: Table) -> tuple[str, str]:
    """Metric and suffix, of a table whose name says nothing by its questions."""
    options = any(question.choices for question in questions)
    suffix = OPTION_LETTER if options else SHORT_ANSWER
    suffix = suffix if table.suffix is None else table.suffix
    if table.metric:
        return table.metric, suffix
    if options:
        return "letter", suffix
    answers = {a.lower() for question in questions for a in question.answers}
    if answers <= {"yes", "no"}:
        return "yes_no", suffix
    votes = any(len(question.answers) > 1 for question in questions)
    return "vqa" if votes else "exact", suffix


VLMEVALKIT = Format("vlmevalkit", "a .tsv of VLMEvalKit", claims, read)
