"""Crash-safe output: an interrupted run can be resumed from the file itself.

A line is written whole, in one call, as soon as it is known. The file itself says
which images are done, so no second file can disagree with it. After a crash only the
last line can be incomplete; the next run cuts it off.
"""

import errno
import fcntl
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.caption.find_images import identity, is_address
from fastvlm_mlx.app.caption.records import CSV, JSONLines, Record
from fastvlm_mlx.errors import OptionError


class Output(Protocol):
    """Where captions go.

    `done` are the identities of images that have a caption; `begin` is called once
    before the first `write`.
    """

    done: set[str]

    def begin(self) -> None: ...
    def write(self, record: Record) -> None: ...
    def close(self) -> None: ...


class File:
    """A JSONL or CSV file that is resumed, or replaced if `overwrite`.

    `begin` drops the lines of images that failed: those are tried again.

    Raises:
        OptionError: `path` cannot be written, holds something else, is in use, or was
            made by another model or prompt.
    """

    def __init__(
        self,
        path: Path,
        form: JSONLines | CSV,
        *,
        model: str,
        prompt: str,
        overwrite: bool,
    ):
        self.done: set[str] = set()
        self._path, self._form, self._overwrite = path, form, overwrite
        self._failed = False  # some line holds an error
        self._whole = 0  # bytes of whole lines
        self._end = 0
        self._file = _locked(path)
        try:
            if not overwrite:
                self._read({"model": model, "prompt": prompt})
        except BaseException:
            self._file.close()
            raise

    def begin(self):
        """Prepares the file for the next line; until now it was only read."""
        try:
            if self._overwrite:
                self._file.truncate(0)
            elif self._failed:
                self._drop_failed()
            else:
                self._file.truncate(self._whole)
            self._end = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise _unwritable(self._path, error) from None
        if not self._end:
            self._append(self._form.header)

    def write(self, record: Record):
        """Appends a line, whole or not at all.

        Raises:
            OptionError: it cannot be written.
        """
        self._append(self._form.encode(record))

    def close(self):
        # A run that wrote nothing leaves no file.
        if not os.fstat(self._file.fileno()).st_size:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def _read(self, expected: dict[str, str]):
        fields: dict[str, Any] = {}
        for start, line in self._lines():
            if not self._form.is_whole(line):
                if not start and not self._form.opening.startswith(
                    line.rstrip(b"\0")[:10]
                ):
                    raise self._foreign()
                return  # cut by a crash; its image is captioned again
            self._whole = start + len(line)
            if not start and self._form.header:
                if line != self._form.header:
                    raise self._foreign()
                continue
            try:
                fields = self._form.decode(line)
            except (ValueError, UnicodeError):
                if not start:
                    raise self._foreign() from None
                raise OptionError(
                    f"{self._path}: no caption at byte {start}; mend the file, or use"
                    " --overwrite to begin anew"
                ) from None
            for name, value in expected.items():
                if fields.get(name) != value:
                    raise OptionError(
                        f"{self._path}: holds captions of {name} {fields.get(name)!r};"
                        " choose another -o, or use --overwrite to begin anew"
                    )
            if fields.get("error"):
                self._failed = True
            else:
                self.done.add(identity(fields["image"]))

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line's offset and its bytes; the last may be incomplete."""
        with open(self._path, "rb") as file:
            start, pending = 0, b""
            for part in file:
                pending += part
                if self._form.is_whole(pending):
                    yield start, pending
                    start, pending = start + len(pending), b""
            # After a power cut a file can end in zeros.
            if pending.strip(b"\0"):
                yield start, pending

    def _drop_failed(self):
        part = self._path.with_name(f".{self._path.name}.part")
        file = _locked(part)  # before it takes the place of the other
        file.truncate(0)
        with open(file.fileno(), "wb", closefd=False) as copy:
            for start, line in self._lines():
                if start >= self._whole:
                    break
                heading = not start and self._form.header
                if heading or not self._form.decode(line).get("error"):
                    copy.write(line)
            copy.flush()
            os.fsync(copy.fileno())
        os.replace(part, self._path)
        self._file.close()
        self._file = file

    def _append(self, line: bytes):
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            # A full disk takes what still fits: half a line is removed.
            self._file.truncate(self._end)
            raise _unwritable(self._path, error) from None
        self._end += len(line)

    def _foreign(self) -> OptionError:
        return OptionError(
            f"{self._path}: exists and holds no captions; choose another -o, or use"
            " --overwrite to replace it"
        )


class Sidecars:
    """A text file beside each image: `cat.jpg` gets `cat.txt`, whole or not at all.

    Raises:
        OptionError: two images would share a file.
    """

    def __init__(self, images: list[str], *, overwrite: bool):
        owners: dict[Path, str] = {}
        self.done: set[str] = set()
        for image in images:
            if is_address(image):
                raise OptionError(f"{image}: has no place for a .txt; use -o FILE")
            path = Path(image).with_suffix(".txt")
            other = owners.setdefault(path, image)
            if other != image:
                raise OptionError(
                    f"{other} and {image} would share {path.name}; rename one, or"
                    " use -o FILE"
                )
            if path.exists() and not overwrite:
                self.done.add(identity(image))

    def begin(self):
        pass

    def write(self, record: Record):
        """Writes the caption of an image; an error has no file."""
        if record.error is not None:
            return
        path = Path(record.image).with_suffix(".txt")
        # Left behind by a kill, it is written again: its image is not done.
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_text(f"{record.text()}\n", encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _unwritable(path, error) from None

    def close(self):
        pass


class Stdout:
    """Standard output, which cannot be resumed."""

    def __init__(self, form: JSONLines | CSV):
        self.done: set[str] = set()
        self._form = form

    def begin(self):
        if self._form.header:
            terminal.emit(self._form.header.decode())

    def write(self, record: Record):
        terminal.emit(self._form.encode(record).decode(errors="surrogateescape"))

    def close(self):
        pass


def _locked(path: Path) -> io.FileIO:
    """Opens or makes a file, held against other runs until it is closed."""
    try:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
    except OSError as error:
        raise _unwritable(path, error) from None
    return file


def _unwritable(path: Path, error: OSError) -> OptionError:
    if isinstance(error, BlockingIOError):
        return OptionError(f"{path}: another run is writing it; wait for that one")
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "free some space and run the same command again to go on"
    else:
        advice = "choose another place with -o FILE"
    return OptionError(f"{path}: {reason}; {advice}")
