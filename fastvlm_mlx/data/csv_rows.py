"""Rows of tables, CSV or TSV, whose first line names the columns."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastvlm_mlx.data.column_names import ANSWERS, IMAGES
from fastvlm_mlx.data.located import Located, is_text
from fastvlm_mlx.errors import DataError

_DELIMITERS = (",", ";", "\t")  # spreadsheets write ";" where "," is a decimal point


def csv_rows(
    path: Path,
    data: bytes,
    required: Sequence[Sequence[str]] = (IMAGES, ANSWERS),
    example: str = "file,text or image,question,answer",
) -> list[Located]:
    """The rows of `data` by the names of its columns, in lower case.

    A line may end with "\\n", "\\r\\n" or "\\r"; quoted fields may hold any of these.

    Args:
        path: the file, for messages.
        data: what it holds.
        required: names of which the first line must have one of each.
        example: a first line that does, for messages.
    Raises:
        DataError: the first line lacks a required column, or names one twice.
    """
    text = data.decode("utf-8", "surrogateescape")
    # csv's own limit, 131,072 letters, is less than a text may have.
    limit = csv.field_size_limit(max(len(text), 131_072))
    try:
        return list(_rows(path, text, required, example))
    finally:
        csv.field_size_limit(limit)


def _rows(
    path: Path, text: str, required: Sequence[Sequence[str]], example: str
) -> Iterator[Located]:
    names, delimiter = _header(path, text, required, example)
    # newline="": line ends within quoted fields stay what they are.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while not next(reader):  # blank lines above the names, and the names
        pass
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Located(line, None, _reason(error))
            continue
        if not any(field.strip() for field in fields):
            continue  # a blank line, or one of delimiters alone
        if len(fields) != len(names):
            fault = f"{len(fields)} fields for {len(names)} columns"
            if len(fields) > len(names):
                fault += ' (put "quotes" around texts with commas)'
            yield Located(line, None, fault)
            continue
        yield Located(line, dict(zip(names, fields, strict=True)))


def _header(
    path: Path, text: str, required: Sequence[Sequence[str]], example: str
) -> tuple[list[str], str]:
    """The names of the columns and what stands between them."""
    for delimiter in _DELIMITERS:
        lines = io.StringIO(text, newline="")
        try:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            fields = next(filter(None, reader))
        except (csv.Error, StopIteration):
            continue
        names = [name.strip().lower() for name in fields]
        if all(set(one_of) & set(names) for one_of in required):
            if twice := sorted({n for n in names if n and names.count(n) > 1}):
                raise DataError(
                    f"{path}:1: two columns are called {twice[0]}; rename one"
                )
            return names, delimiter
    first = text.lstrip().splitlines()[0]
    shown = first[:60] if is_text(first) else "not UTF-8"
    raise DataError(
        f"{path}:1: the first line ({shown}) does not name the columns; begin with a"
        f" line such as {example}"
    )


def _reason(error: csv.Error) -> str:
    if "unexpected end of data" in str(error):
        return "a quotation mark opens a field and none closes it"
    return f"not a row of a table ({error})"
