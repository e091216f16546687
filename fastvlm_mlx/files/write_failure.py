"""Turns an error of writing into one line: the output, the reason and the way out."""

import errno
import os
import re
import shutil
from pathlib import Path

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.cache_dir import way_out
from fastvlm_mlx.files.disk_space import format_size
from fastvlm_mlx.files.output_check import cannot_write
from fastvlm_mlx.files.temporary_names import reason_of, stem

_FULL = {errno.ENOSPC, errno.EDQUOT}
# Only writing fails with these, whatever path the error names.
_WRITING = _FULL | {errno.EROFS, errno.EFBIG}
# MLX reports a failed write as RuntimeError, without errno (0.32: "[write] Unable to
# write N bytes to file.", "[save_safetensors] Failed to open file PATH").
_MLX_WRITE = re.compile(r"^\[(write|save_\w+)\]")
# A disk with less than this free cannot take the next file of an output.
_NEARLY_FULL = 64 << 10


def write_failure(
    error: OSError | RuntimeError, out: str | Path, place: Path, free: int
) -> OptionError | None:
    """The OptionError for an error of writing `out`; None for anything else.

    Args:
        error: what was raised.
        out: as the user named it.
        place: the absolute path of `out`.
        free: bytes that were free on the disk of `place` when `error` was raised.
    """
    if isinstance(error, shutil.Error):
        # Of copytree: a list of (source, target, reason), each reason a text.
        error = _first_of(error)
    if isinstance(error, OSError):
        path = Path(str(error.filename or ""))
        beside = path.is_relative_to(place) or any(
            part.startswith(stem(place.name)) for part in path.parts
        )
        if not beside and error.errno not in _WRITING:
            return None
        full = error.errno in _FULL
        reason = reason_of(error)
    elif _MLX_WRITE.match(str(error)):
        full = "Unable to write" in str(error)
        reason = "cannot be opened"
    else:
        # coremltools' C++ libraries only say that writing failed.
        full = free < _NEARLY_FULL
        reason = ""
        if not full:
            return None
    return does_not_fit(out, place) if full else cannot_write(out, place, reason)


def does_not_fit(out: str | Path, place: Path) -> OptionError:
    """The error for a full disk; made once the partial output is gone.

    So it says what the next try will find.
    """
    folder = place.parent
    while not folder.exists():
        folder = folder.parent
    free = format_size(shutil.disk_usage(folder).free)
    return OptionError(
        f"{out}: does not fit on its disk {_disk(folder)} ({free} free);"
        f" free some space or {way_out(place, full=True)}"
    )


def _disk(folder: Path) -> Path:
    while not os.path.ismount(folder):
        folder = folder.parent
    return folder


def _first_of(error: shutil.Error) -> OSError:
    target, reason = "", str(error)
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        _, target, reason = error.args[0][0]
    number = re.match(r"\[Errno (\d+)\]", str(reason))
    if number is None:
        return OSError(errno.EIO, str(reason), str(target))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(target))
