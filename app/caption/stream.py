"""Outputs that cannot be resumed: standard output, pipes and devices.

They are written to, and never read, cut, locked or removed.
"""

import io
import os
import re
import stat
import sys
import time
import unicodedata
from pathlib import Path

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.caption.output import Output
from fastvlm_mlx.app.caption.records import Record
from fastvlm_mlx.app.lines.form import Form
from fastvlm_mlx.app.lines.writing import unwritable, write_all
from fastvlm_mlx.errors import OptionError

STDOUT = 1
READER = 5.0  # seconds to wait for the reader of a pipe

_DESCRIPTOR = re.compile(
    rf"/dev/(?P<name>stdin|stdout|stderr)|(/dev|/proc/(self|{os.getpid()}))/fd/(?P<at>\d+)"
)
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
_REFUSED = {
    stat.S_IFSOCK: "is a socket",
    stat.S_IFBLK: "is a disk, which captions would overwrite",
}


class Stdout(Output):
    """Standard output.

    Raises:
        OptionError: it is closed.
    """

    def __init__(self, form: Form):
        # `>&-` in a shell: no stream, or the null device in its place, by its number.
        if sys.stdout is None or getattr(sys.stdout, "name", "") == STDOUT:
            raise OptionError("standard output is closed; choose a file with -o FILE")
        self.on_terminal = sys.stdout.isatty()
        encoding = (sys.stdout.encoding or "").lower().replace("-", "")
        self._form, self._ascii = form, encoding not in ("utf8", "utf8sig")

    def begin(self):
        self._emit(self._form.header)

    def write(self, record: Record):
        self._emit(self._form.encode(record, ascii=self._ascii))

    def _emit(self, data: bytes):
        if self.on_terminal or not hasattr(sys.stdout, "buffer"):
            terminal.emit(data.decode(errors="surrogateescape"))
            return
        # Not as text: that would be in the locale's encoding, which has no letters
        # for some names, and what reads JSON and CSV expects UTF-8.
        try:
            sys.stdout.flush()
            # What a buffer keeps after a failure would fail again at the exit.
            write_all(getattr(sys.stdout.buffer, "raw", sys.stdout.buffer), data)
        except BrokenPipeError:
            raise  # whoever read it has enough, as `head` does: no error to speak of
        except OSError as error:
            raise unwritable("standard output", error) from None


class Stream(Output):
    """A pipe, a device or a descriptor that this process was given.

    Raises:
        OptionError: it cannot be written, or nobody reads the pipe.
    """

    def __init__(self, path: str | Path, form: Form):
        self._path, self._form = path, form
        try:
            self._file = io.FileIO(_opened(path), "w")
        except OSError as error:
            raise unwritable(path, error) from None
        self.on_terminal = self._file.isatty()

    def begin(self):
        self._emit(self._form.header)

    def write(self, record: Record):
        self._emit(self._form.encode(record))

    def close(self):
        self._file.close()

    def _emit(self, data: bytes):
        if self.on_terminal:  # which obeys control characters
            text = data.decode(errors="replace")
            text = "".join(
                c
                for c in text
                if c in terminal.PLAIN or unicodedata.category(c) != "Cc"
            )
            data = text.encode()
        try:
            write_all(self._file, data)
        except OSError as error:
            raise unwritable(self._path, error) from None


def is_stream(path: str | Path) -> bool:
    """Whether `path` is no file or folder, or names a descriptor."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return descriptor_of(path) is not None
    if stat.S_ISDIR(mode):
        return False
    return not stat.S_ISREG(mode) or descriptor_of(path) is not None


def descriptor_of(path: str | Path) -> int | None:
    """The open descriptor that a path such as /dev/stdout means; links are followed."""
    place = os.path.abspath(path)
    for _ in range(40):  # the system's own limit
        if match := _DESCRIPTOR.fullmatch(place):
            return _STANDARD[match["name"]] if match["name"] else int(match["at"])
        try:
            target = os.readlink(place)
        except OSError:
            return None
        place = os.path.normpath(os.path.join(os.path.dirname(place), target))
    return None


def _opened(path: str | Path) -> int:
    descriptor = descriptor_of(path)
    if descriptor is not None:
        return os.dup(descriptor)
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind in _REFUSED:
        raise OptionError(
            f"{path}: {_REFUSED[kind]}; choose another place with -o FILE"
        )
    end = time.monotonic() + READER
    while True:
        try:
            # Non-blocking: to open a pipe otherwise waits for its reader for ever.
            found = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError:
            if not stat.S_ISFIFO(kind):
                raise
            if time.monotonic() > end:
                raise OptionError(
                    f"{path}: nobody reads this pipe; start its reader first"
                ) from None
            time.sleep(0.05)
        else:
            os.set_blocking(found, True)
            return found
