"""Tables of gigabytes: rows one at a time, with where each lies in the file.

For TSV files that pandas writes with an image as base64 in each row: a field with a
tab, a quotation mark or a line end is quoted, and quotation marks within are doubled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastvlm_mlx.errors import DataError

_LONGEST = 1 << 28  # bytes of a row; a quotation mark that is not closed takes in all
_QUOTE = b'"'


@dataclass(frozen=True)
class TableRow:
    """One row.

    Attributes:
        line: where it begins, from 1.
        start: the same in bytes, from 0.
        raw: its bytes, line end included.
        fields: its fields by the names of the columns; None if it is faulty.
        fault: what is wrong with it.
    """

    line: int
    start: int
    raw: bytes
    fields: dict[str, str] | None
    fault: str = ""

    def place_of(self, text: str) -> int:
        """Where in the file a part of a field begins that needs no quotes, in bytes."""
        return self.start + self.raw.index(text.encode())


def table_rows(path: Path) -> Iterator[TableRow]:
    """The rows of a table whose fields have tabs between them.

    Raises:
        DataError: it cannot be read.
    """
    names: list[str] | None = None
    for line, start, raw in _records(path):
        if not raw.strip():
            continue
        fields = _fields(raw)
        if fields is None:
            fault = "a quotation mark opens a field and none closes it"
            yield TableRow(line, start, raw, None, fault)
        elif names is None:
            names = fields
        elif len(fields) != len(names):
            fault = f"{len(fields)} fields for {len(names)} columns"
            yield TableRow(line, start, raw, None, fault)
        else:
            row = dict(zip(names, fields, strict=True))
            yield TableRow(line, start, raw, row)


def header_of(head: bytes) -> list[str]:
    """The names of the columns, by the first kilobytes of a file."""
    return _fields(head.removeprefix(b"\xef\xbb\xbf").partition(b"\n")[0]) or []


def _records(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Each row as (its line, its first byte, its bytes)."""
    line, at = 1, 0
    try:
        with path.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            else:
                at = 3
            parts: list[bytes] = []
            quotes = size = 0
            for part in file:
                parts.append(part)
                quotes += part.count(_QUOTE)
                size += len(part)
                if quotes % 2 and size < _LONGEST:
                    continue
                yield line, at, b"".join(parts)
                line, at = line + len(parts), at + size
                parts, quotes, size = [], 0, 0
            if parts:
                yield line, at, b"".join(parts)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{path}: {reason}; check the path") from error


def _fields(raw: bytes) -> list[str] | None:
    """The fields of a row; None if a quotation mark is not closed.

    Not by the csv module, which looks at each letter: an image has a million.
    """
    raw = raw.rstrip(b"\r\n")
    fields: list[bytes] = []
    at = 0
    while at <= len(raw):
        if raw[at : at + 1] == _QUOTE:
            end = _closing(raw, at + 1)
            if end > len(raw) or raw[end + 1 : end + 2] not in (b"", b"\t"):
                return None
            fields.append(raw[at + 1 : end].replace(_QUOTE * 2, _QUOTE))
            at = end + 2
        else:
            end = raw.find(b"\t", at)
            end = len(raw) if end < 0 else end
            fields.append(raw[at:end])
            at = end + 1
    return [field.decode("utf-8", "surrogateescape") for field in fields]


def _closing(raw: bytes, at: int) -> int:
    """Where the quotation mark that closes a field is; one past the end if nowhere."""
    while (found := raw.find(_QUOTE, at)) >= 0:
        if raw[found + 1 : found + 2] != _QUOTE:
            return found
        at = found + 2
    return len(raw) + 1
