"""Refuses what lies in a model folder instead of a file: pointers, pipes, devices."""

import os
import stat
from pathlib import Path

from fastvlm_mlx.errors import CheckpointError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LFS = b"version https://git-lfs"


def check_model_file(path: Path) -> None:
    """Refuses a file that cannot hold what its name promises.

    Only a regular file is opened: a pipe would wait for ever, a device never end.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: no regular file, or a git-lfs pointer, or it cannot be read.
    """
    try:
        check_regular(path)
        with path.open("rb") as opened:
            start = opened.read(len(_LFS))
    except FileNotFoundError:
        raise
    except OSError as fault:
        raise unreadable(path, fault) from fault
    check_pointer(path, start)


def check_regular(path: Path) -> None:
    """Refuses a folder, pipe, socket or device; OSError as `Path.stat` raises it."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise CheckpointError(
            f"{path}: is {_KINDS.get(kind, 'no regular file')}, not a file;"
            " put the model's own file there"
        )


def check_pointer(path: Path, start: bytes) -> None:
    """Refuses the small text that git leaves where git-lfs did not fetch a file."""
    if start.startswith(_LFS):
        raise CheckpointError(
            f"{path}: is a git-lfs pointer, not the file itself; run `git lfs pull`"
            f" in {path.parent}"
        )


def unreadable(path: Path, fault: OSError) -> CheckpointError:
    """The error for a file that is there and cannot be read."""
    advice = "check its permissions"
    if path.is_symlink() and not os.path.exists(path):
        advice = "it is a link to nothing, get the file again"
    return CheckpointError(f"{path}: cannot be read ({fault.strerror}); {advice}")
