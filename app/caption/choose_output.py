"""Chooses where captions go, and in which form, by `-o` and `--format`."""

import os
from pathlib import Path

from fastvlm_mlx.app import session
from fastvlm_mlx.app.caption.output import File, Output
from fastvlm_mlx.app.caption.records import CSV, JSONLines
from fastvlm_mlx.app.caption.sidecars import Sidecars
from fastvlm_mlx.app.caption.stream import (
    STDOUT,
    Stdout,
    Stream,
    descriptor_of,
    is_stream,
)
from fastvlm_mlx.app.lines.form import Form
from fastvlm_mlx.errors import OptionError

_FORMS = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".txt": "txt"}
# What others write and read under these names is no text of lines.
_OTHERS = frozenset(
    ".json .yaml .yml .xml .html .md .xls .xlsx .ods .parquet .db .sqlite .gz .bz2 .xz"
    " .zst .zip .png .jpg .jpeg .webp .gif .bmp .tif .tiff".split()
)


def open_output(
    out: str | Path | None,
    form: str | None,
    images: list[str],
    *,
    model: str,
    prompt: str,
    preset: str | None = None,
    overwrite: bool,
) -> Output:
    """Opens where the captions of `images` go; nothing is written yet.

    `out` None or "-" is standard output, `form` None is what the name of `out` says.

    Raises:
        UsageError: `out` and `form` do not go together.
        OptionError: `out` cannot be written, or holds something else.
    """
    if out is not None and not str(out).strip():
        raise session.UsageError(
            "-o '' is empty; name a file, or - for standard output"
        )
    if out is None and form == "txt":
        return Sidecars(images, overwrite=overwrite)
    if out is None:
        return Stdout(_lines(form, preset))
    form = form or _by_suffix(out)
    if form == "txt":
        raise session.UsageError(
            f"-o {out}: text goes beside each image; give --format txt and no -o"
        )
    if str(out) == "-":
        return Stdout(_lines(form, preset))
    path = os.path.expanduser(out)
    if is_stream(path):
        if descriptor_of(path) == STDOUT:
            return Stdout(_lines(form, preset))
        return Stream(path, _lines(form, preset))
    if path.endswith(os.sep) and not os.path.isdir(path):
        raise OptionError(f"{out}: names a folder; name a file, as {out}captions.jsonl")
    return File(
        path,
        _lines(form, preset),
        model=model,
        prompt=prompt,
        preset=preset,
        overwrite=overwrite,
    )


def _by_suffix(out: str | Path) -> str:
    stem, suffix = os.path.splitext(out)
    suffix = suffix.lower()
    if suffix in _OTHERS:
        stem = stem.removesuffix(".jsonl")
        raise session.UsageError(
            f"-o {out}: captions are written as JSON lines, CSV or TSV; name it"
            f" {stem}.jsonl, or add --format jsonl"
        )
    return _FORMS.get(suffix, "jsonl")


def _lines(form: str | None, preset: str | None) -> Form:
    if form in ("csv", "tsv"):
        return CSV("," if form == "csv" else "\t", preset=preset is not None)
    return JSONLines()
