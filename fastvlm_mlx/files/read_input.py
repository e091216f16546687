"""Reads a file that the user named, which may be a pipe or a device."""

import io
import os
import stat
import time
from pathlib import Path

WRITER = 5.0  # seconds to wait for somebody who writes to a pipe


def read_input(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of a file, and one more if it has more.

    So a device that never ends is noticed, and does not fill the memory.

    Raises:
        OSError: it cannot be read, or nobody writes to the pipe.
    """
    if not stat.S_ISFIFO(path.stat().st_mode):
        with path.open("rb") as file:
            return file.read(limit + 1)
    # Non-blocking: to open a pipe otherwise waits for its writer for ever.
    with io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as pipe:
        start = _wait_for_writer(pipe, path)
        os.set_blocking(pipe.fileno(), True)
        with io.BufferedReader(pipe) as file:
            return start + file.read(limit + 1 - len(start))


def _wait_for_writer(pipe: io.FileIO, path: Path) -> bytes:
    """What was written first; nothing if the writer is there and has yet to write."""
    end = time.monotonic() + WRITER
    while time.monotonic() < end:
        start = pipe.read(1)
        if start is None:
            return b""
        if start:
            return start
        time.sleep(0.05)
    reason = "nobody writes to this pipe"
    raise TimeoutError(None, reason, str(path))
