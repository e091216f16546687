"""Where the descriptions of scenes go: standard output, lines to resume, subtitles.

Subtitles cannot be gone on with: their scenes are kept as JSON lines in a file beside
them, `clip.srt.part.jsonl`, until all are known.
"""

import os
from pathlib import Path
from typing import Any

from fastvlm_mlx.app import session, terminal
from fastvlm_mlx.app.caption.stream import (
    STDOUT,
    Stdout,
    Stream,
    descriptor_of,
    is_stream,
)
from fastvlm_mlx.app.lines.form import Contents
from fastvlm_mlx.app.lines.output import LineFile
from fastvlm_mlx.app.video.records import FIELDS, Record, form_named
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.output_check import check_replaceable, resolve_output

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".srt": "srt",
    ".vtt": "vtt",
    ".txt": "text",
}
_LINES = ("jsonl", "csv", "tsv")


class Lines(LineFile):
    """A file of JSON lines or a table; see `LineFile`."""

    on_terminal = False

    def records(self) -> list[Record]:
        """What was there, in order."""
        return [_record(fields) for fields in self.kept()]

    def finish(self, records: list[Record]) -> None:
        """Does what is left to do once all `records` are known."""


class Subtitles(Lines):
    """Subtitles or text: lines beside them, and the file itself at the end."""

    def __init__(self, path: str, form: str, contents: Contents, *, overwrite: bool):
        self._target, self._target_form, self._anew = path, form, overwrite
        check_replaceable(path, resolve_output(path), overwrite, folder=False)
        self._part = f"{path}.part.jsonl"
        lines = form_named("jsonl")
        super().__init__(self._part, lines, contents, overwrite=overwrite)

    def finish(self, records: list[Record]) -> None:
        if failed := sum(record.error is not None for record in records):
            terminal.note(
                f"{self._target}: not written, as {failed} of {len(records)} scenes"
                f" failed; the others are kept in {self._part}, run the same command to"
                " go on"
            )
            return
        form = form_named(self._target_form)
        data = form.header + b"".join(map(form.encode, records))
        with staged_file(self._target, overwrite=self._anew) as partial:
            partial.write_bytes(data)
        Path(self._part).unlink(missing_ok=True)


def open_output(
    out: str | None, form: str | None, contents: Contents, *, overwrite: bool
) -> "Lines | Stdout | Stream":
    """Opens where descriptions go; nothing is written yet.

    `out` None or "-" is standard output, `form` None is what the name of `out` says.

    Raises:
        UsageError: `out` and `form` do not go together.
        OptionError: `out` cannot be written, or holds something else.
    """
    if out is not None and not out.strip():
        raise session.UsageError("-o '' is empty; name a file, or - for the terminal")
    if out is None or out == "-":
        return Stdout(form_named(form or "text"))
    path = os.path.expanduser(out)
    if is_stream(path):
        if descriptor_of(path) == STDOUT:
            return Stdout(form_named(form or "text"))
        return Stream(path, form_named(form or "text"))
    if path.endswith(os.sep) or os.path.isdir(path):
        raise OptionError(f"{out}: is a folder; name a file, as scenes.srt")
    suffix = os.path.splitext(path)[1].lower()
    if form is None and suffix not in _SUFFIXES:
        known = ", ".join(_SUFFIXES)
        raise session.UsageError(
            f"-o {out}: its form is unknown; give it one of {known}, or add --format"
        )
    form = form or _SUFFIXES[suffix]
    if form in _LINES:
        return Lines(path, form_named(form), contents, overwrite=overwrite)
    return Subtitles(path, form, contents, overwrite=overwrite)


def _record(fields: dict[str, Any]) -> Record:
    # A table has texts alone.
    known = {key: value for key, value in fields.items() if key in FIELDS}
    known |= {name: float(fields[name]) for name in ("time", "end")}
    return Record(**known)
