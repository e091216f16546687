"""One image's record as a line of JSON or CSV, and whether a line is complete."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

FIELDS: tuple[str, ...] = (
    "image",
    "caption",
    "finish_reason",
    "error",
    "model",
    "prompt",
)


@dataclass(frozen=True)
class Record:
    """One image's line: a caption (a text, or what its JSON holds) or an error."""

    image: str
    model: str
    prompt: str
    caption: Any = None
    finish_reason: str | None = None
    error: str | None = None

    def fields(self) -> dict[str, Any]:
        """What is known, by name, in the order of FIELDS."""
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    def text(self) -> str:
        """The caption as text."""
        if isinstance(self.caption, str):
            return self.caption
        return json.dumps(self.caption, ensure_ascii=False)


class JSONLines:
    """One JSON object a line."""

    header = b""
    opening = b'{"image": '

    def encode(self, record: Record) -> bytes:
        line = json.dumps(record.fields(), ensure_ascii=False)
        try:
            return f"{line}\n".encode()
        except UnicodeEncodeError:  # a file name that is no text
            return f"{json.dumps(record.fields())}\n".encode()

    def decode(self, line: bytes) -> dict[str, Any]:
        fields = json.loads(line)
        if not isinstance(fields, dict) or not isinstance(fields.get("image"), str):
            raise ValueError
        return fields

    def is_whole(self, line: bytes) -> bool:
        return line.endswith(b"\n")


class CSV:
    """A table with a header; texts with line breaks are quoted."""

    header = (",".join(FIELDS) + "\n").encode()
    opening = header

    def encode(self, record: Record) -> bytes:
        fields = record.fields()
        if "caption" in fields:
            fields["caption"] = record.text()
        table = io.StringIO()
        csv.DictWriter(table, FIELDS, lineterminator="\n").writerow(fields)
        return table.getvalue().encode(errors="surrogateescape")

    def decode(self, line: bytes) -> dict[str, Any]:
        text = line.decode(errors="surrogateescape")
        (values,) = csv.reader(io.StringIO(text, newline=""), strict=True)
        return dict(zip(FIELDS, values, strict=True))

    def is_whole(self, line: bytes) -> bool:
        # A quote within quotes is doubled, so an odd number leaves one open.
        return line.endswith(b"\n") and line.count(b'"') % 2 == 0
