"""Crash-safe output: an interrupted run can be resumed from the file itself.

A line is written whole, in one call, as soon as it is known. The file itself says
what is done, so no second file can disagree with it. After a crash only the last line
can be incomplete; the next run cuts it off.
"""

import contextlib
import fcntl
import io
import os
import stat
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.lines import resume
from fastvlm_mlx.app.lines.form import Contents, Fields, Form
from fastvlm_mlx.app.lines.writing import take_over, unwritable, write_all
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.temporary_names import partial_name, remove_stale


class LineFile:
    """A JSONL, CSV or TSV file that is resumed, or emptied first if `overwrite`.

    `done` are the identities of what has a line without an error. `begin` drops the
    lines with one: those are tried again.

    Args:
        path: the file; one that is not there is made.
        form: how its lines are written.
        contents: what they are about.
        overwrite: begins anew instead of going on.
    Raises:
        OptionError: `path` cannot be written, holds something else, is in use, or has
            other labels than `contents`.
    """

    done: Set[str] = frozenset()

    def __init__(
        self, path: str | Path, form: Form, contents: Contents, *, overwrite: bool
    ):
        self._name, self._form, self._overwrite = path, form, overwrite
        # What a link points to is written and replaced; the link stays.
        self._path = Path(os.path.realpath(path))
        self._found = resume.Found()
        self._end = 0
        self._file, self._made = _held(self._path, path)
        try:
            if overwrite:
                resume.check_replaceable(self._file, contents, name=path)
            else:
                self._found = resume.read(self._file, form, contents, name=path)
        except OSError as error:
            self.close()
            raise unwritable(path, error) from None
        except BaseException:
            self.close()
            raise
        self.done = self._found.done

    def begin(self):
        """Prepares the file for the next line; until now it was only read."""
        try:
            if self._found.unended:
                self._file.truncate(self._found.whole)
                write_all(self._file, b"\n")
                self._found.whole += 1
            if self._overwrite:
                self._file.truncate(0)
            elif self._found.failed is not None:
                self._drop_failed(self._found.failed)
            else:
                self._file.truncate(self._found.whole)
            self._end = self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise unwritable(self._name, error) from None
        if not self._end:
            self._append(self._form.header)

    def kept(self) -> Iterator[dict[str, Any]]:
        """The fields of each line without an error that was there, in order."""
        if self._overwrite:
            return
        for start, line in resume.lines(self._file, self._form):
            if start >= self._found.whole:
                break
            if not start and self._form.header:
                continue
            fields = self._form.decode(line)
            if not fields.get("error"):
                yield fields

    def write(self, record: Fields):
        """Appends a line, whole or not at all.

        Raises:
            OptionError: it cannot be written.
        """
        self._append(self._form.encode(record))

    def close(self):
        """Closes the file; one that this run made and wrote nothing to is removed."""
        if self._made and not os.fstat(self._file.fileno()).st_size:
            if _is_at(self._file, self._path):
                self._path.unlink(missing_ok=True)
        self._file.close()

    def _drop_failed(self, first: int):
        with contextlib.suppress(OSError):
            if os.fstat(self._file.fileno()).st_nlink == 1:
                return self._replace()
        # In place: the file has other names that must stay its own, or its folder
        # takes no new files, or only another user may make one like it. Killed in
        # between, it is shorter but sound: what is missing is done again.
        kept = b"".join(self._kept(first))
        self._file.truncate(first)
        write_all(self._file, kept)

    def _replace(self):
        remove_stale(self._path.parent, self._path.name)
        part = self._path.parent / partial_name(self._path.name)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
        file = io.FileIO(os.open(part, flags, 0o600), "r+")
        try:
            _lock(file)  # before it takes the place of the other
            with open(file.fileno(), "wb", closefd=False) as copy:
                copy.writelines(self._kept(0))
            take_over(self._path, part)
            os.fsync(file.fileno())
            os.replace(part, self._path)
        except BaseException:
            file.close()
            part.unlink(missing_ok=True)
            raise
        self._file.close()
        self._file = file

    def _kept(self, first: int) -> Iterator[bytes]:
        """The whole lines from the offset `first` on, without those of failures."""
        for start, line in resume.lines(self._file, self._form):
            if start >= self._found.whole:
                break
            if start < first:
                continue
            heading = not start and self._form.header
            if heading or not self._form.decode(line).get("error"):
                yield line

    def _append(self, line: bytes):
        status = os.fstat(self._file.fileno())
        if not status.st_nlink:
            raise OptionError(
                f"{self._name}: was deleted or replaced meanwhile; run the same"
                " command to go on"
            )
        self._end = status.st_size
        try:
            write_all(self._file, line)
        except OSError as error:
            # A full disk takes what still fits: half a line is removed.
            self._file.truncate(self._end)
            raise unwritable(self._name, error) from None


def _held(path: Path, name: str | Path) -> tuple[io.FileIO, bool]:
    """Opens or makes a file, held against other runs, and says whether it is new."""
    busy = OptionError(f"{name}: another run is writing it; wait for that one")
    for _ in range(10):
        try:
            file, made = _opened(path)
        except FileExistsError:
            continue  # just now made by another run
        except OSError as error:
            raise unwritable(name, error) from None
        try:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OptionError(f"{name}: is no file; choose another -o")
            locked = _lock(file)
        except BaseException as error:
            file.close()
            raise busy if isinstance(error, BlockingIOError) else error from None
        # Whoever held it before may have put another in its place, or removed it.
        if _is_at(file, path):
            if not locked:
                terminal.note(
                    f"warning: {name}: its disk has no locks; do not start a second"
                    " run on it"
                )
            return file, made
        file.close()
    raise busy


def _opened(path: Path) -> tuple[io.FileIO, bool]:
    # Appending: on a disk without locks two runs then at least keep all lines.
    # Non-blocking: a pipe that appears here does not stop the run.
    flags = os.O_RDWR | os.O_APPEND | os.O_NONBLOCK
    try:
        return io.FileIO(os.open(path, flags), "r+"), False
    except FileNotFoundError:
        made = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
        return io.FileIO(made, "r+"), True


def _lock(file: io.FileIO) -> bool:
    """Locks a file; False if its disk has no locks.

    Raises:
        BlockingIOError: another process holds it.
    """
    # Lustre, NFS, SMB and FUSE may have both kinds of lock, one or none, and say so
    # with ENOSYS, ENOLCK, ENOTSUP and others.
    for lock in (fcntl.flock, fcntl.lockf):
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except PermissionError:
            if lock is fcntl.lockf:  # POSIX: held by another, as EAGAIN
                raise BlockingIOError from None
        except OSError:
            continue
        else:
            return True
    return False


def _is_at(file: io.FileIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
