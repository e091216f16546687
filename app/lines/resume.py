"""Reads what an earlier run wrote: what is done, and where whole lines end."""

import io
import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvlm_mlx.app.lines.form import Contents, Form
from fastvlm_mlx.errors import OptionError


@dataclass
class Found:
    """What a file of lines holds.

    `done` are the identities of what has a line without an error, `whole` is the
    number of bytes of whole lines, `failed` the offset of the first line with an error,
    or None; `unended` says that the last of the whole lines has no line break.
    """

    done: set[str] = field(default_factory=set)
    whole: int = 0
    failed: int | None = None
    unended: bool = False


def read(file: io.FileIO, form: Form, contents: Contents, *, name: str | Path) -> Found:
    """Reads a file that is to be gone on with; `name` is what to call it.

    Raises:
        OptionError: it is damaged, holds something else, or has other labels than
            `contents`, such as another model.
        OSError: it cannot be read.
    """
    _check_opening(file, (form.opening,), contents, name)
    found = Found()
    for start, line in lines(file, form):
        if not form.is_whole(line):
            line = line.rstrip(b"\0")
            # An editor may leave out the last line break.
            if start or not form.header:
                found.unended = _is_ours(form, line, contents)
            if not found.unended:
                _check_torn(form, start, line, contents, name)
                break
        found.whole = start + len(line)
        if not start and form.header:
            # Spreadsheets save with a byte order mark, and with "\r\n".
            if line.removeprefix(BOM_UTF8).rstrip() != form.header.rstrip():
                raise OptionError(
                    f"{name}: has other columns than {contents.noun}s have; choose"
                    " another -o, or delete the file first"
                )
            continue
        try:
            fields = form.decode(line)
        except ValueError:
            fault = (
                _damaged(name, contents, start) if start else _foreign(name, contents)
            )
            raise fault from None
        for key, value in contents.compared.items():
            if not _is_same(key, fields.get(key), value):
                there = _kind(contents, key, fields.get(key))
                raise OptionError(
                    f"{name}: holds {there}; choose another -o, or use --overwrite to"
                    " begin anew"
                )
        if not fields.get("error"):
            found.done.add(contents.identity(fields))
        elif found.failed is None:
            found.failed = start
    return found


def _check_torn(
    form: Form, start: int, line: bytes, contents: Contents, name: str | Path
):
    # Cut by a crash, and done again. But if a quote was lost further up, this "line" is
    # all that follows: whole lines, not to be cut off.
    for after in line.split(b"\n")[1:]:
        if _is_ours(form, after + b"\n", contents):
            raise _damaged(name, contents, start)


def check_replaceable(file: io.FileIO, contents: Contents, *, name: str | Path) -> None:
    """Checks that a file holds such lines of this program, in any form, or nothing.

    Its first line tells: the tables and lists of others have an image and a caption
    too, but no labels such as the model.

    Raises:
        OptionError: it holds something else.
        OSError: it cannot be read.
    """
    openings = tuple(form.opening for form in contents.forms)
    _check_opening(file, openings, contents, name)
    file.seek(0)
    with open(file.fileno(), "rb", closefd=False) as reader:
        line = reader.readline().removeprefix(BOM_UTF8).rstrip(b"\0")
    labels = contents.labels
    if line and not any(_is_first_of(form, line, labels) for form in contents.forms):
        raise _foreign(name, contents)


def _is_first_of(form: Form, line: bytes, labels: Iterable[str]) -> bool:
    """Whether a file of this form may begin with `line`, which a crash may have cut."""
    cut = not line.endswith(b"\n")
    if form.header:
        header = form.header.rstrip()
        return header.startswith(line) if cut else line.rstrip() == header
    if not line.startswith(form.opening):
        return cut and form.opening.startswith(line)
    try:
        fields = form.decode(line)
    except ValueError:
        return cut
    return all(isinstance(fields.get(key), str) for key in labels)


def lines(file: io.FileIO, form: Form) -> Iterator[tuple[int, bytes]]:
    """Each line's offset and its bytes; the last may be incomplete."""
    file.seek(0)
    # By its own descriptor: closing another would free a POSIX lock.
    with open(file.fileno(), "rb", closefd=False) as reader:
        start, pending, quotes = 0, [], 0
        for part in reader:
            pending.append(part)
            quotes += part.count(b'"') if form.quoted else 0
            if part.endswith(b"\n") and not quotes % 2:
                line = b"".join(pending)
                yield start, line
                start, pending, quotes = start + len(line), [], 0
        line = b"".join(pending)
        # After a power cut a file can end in zeros.
        if line.strip(b"\0"):
            yield start, line


def _check_opening(
    file: io.FileIO, openings: tuple[bytes, ...], contents: Contents, name: str | Path
):
    """Checks that a file begins as such lines do; a crash may have cut it there."""
    file.seek(0)
    begin = (file.read(64) or b"").removeprefix(BOM_UTF8).rstrip(b"\0")
    if not any(
        begin.startswith(opening[:10]) or opening.startswith(begin)
        for opening in openings
    ):
        raise _foreign(name, contents)


def _is_ours(form: Form, line: bytes, contents: Contents) -> bool:
    try:
        fields = form.decode(line)
    except ValueError:
        return False
    compared = contents.compared.items()
    return all(_is_same(key, fields.get(key), value) for key, value in compared)


def _is_same(key: str, value: Any, expected: str | None) -> bool:
    if value == expected:
        return True
    if key != "model" or not isinstance(value, str) or expected is None:
        return False
    return _model(value) == _model(expected)


def _model(name: str) -> str:
    """One text for all names of a model: `path/` is `path`, 0.5b apple/FastVLM-0.5B."""
    from fastvlm_mlx.hub.locate import ALIASES

    name = ALIASES.get(name.lower(), name)
    return os.path.abspath(os.path.expanduser(name))


def _kind(contents: Contents, key: str, value: Any) -> str:
    noun = f"{contents.noun}s"
    return (
        f"{noun} of no {key}" if value is None else f"{noun} of {key} {_short(value)}"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:80]}..."


def _damaged(name: str | Path, contents: Contents, start: int) -> OptionError:
    return OptionError(
        f"{name}: no {contents.noun} at byte {start}; mend the file, or use --overwrite"
        " to begin anew"
    )


def _foreign(name: str | Path, contents: Contents) -> OptionError:
    return OptionError(
        f"{name}: exists and holds no {contents.noun}s; choose another -o, or delete"
        " the file first"
    )
