"""Rows of JSON files: one object a line (JSONL), or a list of objects (JSON)."""

import json
import re
from collections.abc import Iterator
from typing import Any

from fastvlm_mlx.data.located import Located

_SPACE = re.compile(r"[ \t\r\n]*")


def json_rows(data: bytes) -> Iterator[Located]:
    """The rows of `data`, whichever of the two it is."""
    # What is not UTF-8 is marked, so that its row can be named.
    text = data.decode("utf-8", "surrogateescape")
    if text.lstrip().startswith("["):
        return _list_rows(text)
    if (whole := _one_object(text)) is not None:
        return iter([whole])
    return _line_rows(text)


def _one_object(text: str) -> Located | None:
    """A file of one object, which may be written over several lines."""
    try:
        values = json.loads(text)  # of JSONL it reads no more than the first line
    except (ValueError, RecursionError):
        return None
    return _located(1 + _lines_before(text), values)


def _lines_before(text: str) -> int:
    return text[: len(text) - len(text.lstrip())].count("\n")


def _line_rows(text: str) -> Iterator[Located]:
    # Not splitlines(), to which some characters within texts are line ends.
    for line, row in enumerate(text.split("\n"), start=1):
        if row.strip():
            try:
                values = json.loads(row)
            except (ValueError, RecursionError) as error:
                yield Located(line, None, _reason(error))
            else:
                yield _located(line, values)


def _list_rows(text: str) -> Iterator[Located]:
    """Reads item by item, so that each has its line."""
    decoder = json.JSONDecoder()
    at, line, counted = text.index("[") + 1, 1, 0

    def skip() -> None:
        nonlocal at, line, counted
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", counted, at)
        counted = at

    skip()
    while text[at : at + 1] != "]":
        try:
            values, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            fault_line = getattr(error, "lineno", line)
            yield Located(fault_line, None, _reason(error))
            return
        yield _located(line, values)
        skip()
        if text[at : at + 1] not in (",", "]"):
            yield Located(line, None, "not JSON (the list goes on without a comma)")
            return
        if text[at] == ",":
            at += 1
            skip()
    at += 1
    skip()
    if at < len(text):
        yield Located(line, None, "not JSON (the file goes on after its list)")


def _located(line: int, values: Any) -> Located:
    if isinstance(values, dict):
        return Located(line, values)
    return Located(line, None, f"holds {_kind(values)}, not an object")


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg.lower()} at column {error.colno})"
    if isinstance(error, RecursionError):
        return "not JSON that can be read (too deep)"
    return f"not JSON that can be read ({' '.join(str(error).split())[:80]})"
