"""What a file of lines is: how a record is written, and what its lines are about."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Fields(Protocol):
    """A record, as the fields of a line."""

    def fields(self) -> dict[str, Any]:
        """What is known, by name, in the order in which it is written."""
        ...


class Form(Protocol):
    """How records are written.

    `header` is the first line or nothing, `opening` what every file begins with;
    `quoted` says that a line break within quotes does not end a line.
    """

    quoted: bool

    @property
    def header(self) -> bytes: ...
    @property
    def opening(self) -> bytes: ...
    def encode(self, record: Any, *, ascii: bool = False) -> bytes:
        """The line of a record; `ascii` escapes other letters where the form can."""
        ...

    def decode(self, line: bytes) -> dict[str, Any]:
        """The fields of a line.

        Raises:
            ValueError: it is no line of this form.
        """
        ...

    def is_whole(self, line: bytes) -> bool:
        """Whether a line is complete; a field may hold line breaks."""
        ...


class KeyedJSONLines:
    """One JSON object a line, whose first field is the text `key`."""

    quoted = False
    header = b""

    def __init__(self, key: str):
        self._key = key
        self.opening = f'{{"{key}": '.encode()

    def encode(self, record: Fields, *, ascii: bool = False) -> bytes:
        line = json.dumps(record.fields(), ensure_ascii=ascii)
        try:
            return f"{line}\n".encode()
        except UnicodeEncodeError:  # a file name that is no text
            return f"{json.dumps(record.fields())}\n".encode()

    def decode(self, line: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(line)
        except RecursionError as error:
            raise ValueError("too deep") from error
        if not isinstance(fields, dict) or not isinstance(fields.get(self._key), str):
            raise ValueError(f"no {self._key}")
        return fields

    def is_whole(self, line: bytes) -> bool:
        return line.endswith(b"\n")


@dataclass(frozen=True)
class Contents:
    """What the lines of a file are about.

    - `noun`: what one of them is, for messages, such as "caption".
    - `labels`: fields that all lines have, with their values; "model" may have any of
      the names of one model.
    - `optional`: fields that not every file has, with their values; None is none.
    - `identity`: what a line is about, by its fields: one text for all its names.
    - `forms`: those that a file of such lines may have.
    """

    noun: str
    labels: Mapping[str, str]
    identity: Callable[[dict[str, Any]], str]
    forms: tuple[Form, ...]
    optional: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def compared(self) -> dict[str, str | None]:
        """The fields that all lines of one file have alike."""
        return {**self.optional, **self.labels}
