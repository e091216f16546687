"""Writes bytes whole, and words the errors of outputs as one line."""

import errno
import io
import os
import select
import shutil
from pathlib import Path
from typing import BinaryIO

from fastvlm_mlx.errors import OptionError

FULL = (errno.ENOSPC, errno.EDQUOT)


class NoPlace(OptionError):
    """The caption of one image cannot be written; those of others may be."""


def write_all(raw: io.RawIOBase | BinaryIO, data: bytes) -> None:
    """Writes all of `data`, however little is taken at a time.

    Raises:
        OSError: it cannot be written.
    """
    rest = memoryview(data)
    while rest:
        taken = raw.write(rest)
        if taken is None:  # a full pipe that somebody made non-blocking
            select.select([], [raw], [])
        rest = rest[taken or 0 :]


def unwritable(path: str | Path, error: OSError) -> OptionError:
    """The error of one line for an output that fails, with the way out."""
    reason = (error.strerror or str(error)).lower()
    if error.errno in FULL:
        advice = "free some space and run the same command again to go on"
    elif error.errno == errno.EPIPE:
        reason = "its reader has gone"
        advice = "run the same command with a reader that stays"
    else:
        advice = "choose another place with -o FILE"
    return OptionError(f"{path}: {reason}; {advice}")


def take_over(old: Path, new: Path) -> None:
    """Gives the file `new` the owner, mode and attributes of the file `old`.

    Raises:
        OSError: this user may not.
    """
    there, here = old.stat(), new.stat()
    if (there.st_uid, there.st_gid) != (here.st_uid, here.st_gid):
        os.chown(new, there.st_uid, there.st_gid)
    shutil.copystat(old, new)
