"""One image's record as a line of JSON or CSV, and whether a line is complete."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from fastvlm_mlx.app.lines.form import KeyedJSONLines

FIELDS: tuple[str, ...] = (
    "image",
    "caption",
    "finish_reason",
    "error",
    "model",
    "prompt",
)
WITH_PRESET = (*FIELDS, "preset")


@dataclass(frozen=True)
class Record:
    """One image's line: a caption or an error.

    A caption is a text, what its JSON holds or, of the preset "tags", a list of texts.
    """

    image: str
    model: str
    prompt: str
    caption: Any = None
    finish_reason: str | None = None
    error: str | None = None
    preset: str | None = None

    def fields(self) -> dict[str, Any]:
        """What is known, by name, in the order of WITH_PRESET."""
        values = {name: getattr(self, name) for name in WITH_PRESET}
        return {name: value for name, value in values.items() if value is not None}

    def text(self) -> str:
        """The caption as text; tags are separated by commas."""
        if self.preset == "tags" and isinstance(self.caption, list):
            return ", ".join(self.caption)
        if isinstance(self.caption, str):
            return self.caption
        return json.dumps(self.caption, ensure_ascii=False)


class JSONLines(KeyedJSONLines):
    """One JSON object a line."""

    def __init__(self):
        super().__init__("image")


class CSV:
    """A table with a header; texts with line breaks are quoted.

    `delimiter` is a comma or, for TSV, a tab; `preset` adds a column with its name.
    """

    quoted = True

    def __init__(self, delimiter: str = ",", *, preset: bool = False):
        self._delimiter = delimiter
        self._names = WITH_PRESET if preset else FIELDS
        self.header = (delimiter.join(self._names) + "\n").encode()
        self.opening = self.header

    def encode(self, record: Record, *, ascii: bool = False) -> bytes:
        fields = record.fields()
        if "caption" in fields:
            # Python 3.10 cannot read a table with NUL, nor can most programs.
            fields["caption"] = record.text().replace("\0", "\N{REPLACEMENT CHARACTER}")
        table = io.StringIO()
        # "\r\n": older Pythons quote only the line breaks that are in the terminator,
        # and a carriage return that is not quoted cannot be read again.
        writer = csv.DictWriter(
            table, self._names, delimiter=self._delimiter, lineterminator="\r\n"
        )
        writer.writerow(fields)
        line = table.getvalue().removesuffix("\r\n") + "\n"
        try:
            return line.encode(errors="surrogateescape")
        except UnicodeEncodeError:  # half an emoji in a caption's JSON
            return line.encode(errors="replace")

    def decode(self, line: bytes) -> dict[str, Any]:
        text = line.decode(errors="surrogateescape")
        # csv's own limit, 131,072 letters, is less than a prompt may have.
        limit = csv.field_size_limit(len(text) + 1)
        try:
            # One text, not its lines: csv would take a "\r" for the end of one.
            (values,) = csv.reader([text], delimiter=self._delimiter, strict=True)
        except csv.Error as error:
            raise ValueError(str(error)) from None
        finally:
            csv.field_size_limit(limit)
        return dict(zip(self._names, values, strict=True))

    def is_whole(self, line: bytes) -> bool:
        # A quote within quotes is doubled, so an odd number leaves one open.
        return line.endswith(b"\n") and line.count(b'"') % 2 == 0
