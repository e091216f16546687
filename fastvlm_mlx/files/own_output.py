"""Whether a folder is an output of this program: `--overwrite` deletes nothing else."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fastvlm_mlx.files.cache_dir import cache_dir

# What file managers leave in any folder that was looked at.
_IGNORED = re.compile(r"\._.*|\.DS_Store|Thumbs\.db|desktop\.ini|\.directory")

# What this program makes in folders of the cache, also while it is set aside. By name:
# the cache may be put where the user has folders called so.
_OF_CACHE = {
    "converted": re.compile(r".+@\w{12}-v\d+.*"),
    "coreai": re.compile(r"\.?.+-[0-9a-f]{12}\.aimodel(\.replaced-.+)?"),
    "coreml": re.compile(
        r"\.?([0-9a-f]{16}|.+-[0-9a-f]{12}\.mlpackage)(\.replaced-.+)?"
    ),
}


@dataclass(frozen=True)
class OutputKind:
    """One kind of folder that this program writes.

    Attributes:
        name: with its article, for messages: "a model".
        files: a regular expression of each file's path in it, with `/`.
        written: whether the file that says who wrote the folder names this program.
    """

    name: str
    files: re.Pattern[str]
    written: Callable[[Path], bool]


def find_foreign(folder: Path, kind: OutputKind | None) -> str | None:
    """Why `folder` is no output of `kind`, for a message; None if it is, or is empty.

    Raises:
        OSError: a folder in it cannot be listed.
    """
    if _is_cached(folder):
        return None
    found, other = _look(folder, folder, kind)
    if other is not None:
        other = other if other.isprintable() else repr(other)
        wanted = kind.name if kind is not None else "an output"
        return f"holds {other}, which is not part of {wanted} that fastvlm-mlx wrote"
    if not found or (kind is not None and kind.written(folder)):
        return None
    return "was not written by fastvlm-mlx"


def _is_cached(folder: Path) -> bool:
    cache = cache_dir().resolve()
    return any(
        folder.parent == cache / name and ours.fullmatch(folder.name)
        for name, ours in _OF_CACHE.items()
    )


def _look(top: Path, folder: Path, kind: OutputKind | None) -> tuple[bool, str | None]:
    """Whether there is any file, and the first that `kind` does not have."""
    found = False
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    # The files first: a large folder of somebody's is not walked to its end.
    for entry in sorted(listed, key=lambda entry: entry.is_dir(follow_symlinks=False)):
        if _IGNORED.fullmatch(entry.name):
            continue
        path = Path(entry.path).relative_to(top).as_posix()
        if entry.is_dir(follow_symlinks=False):
            inside, other = _look(top, Path(entry.path), kind)
            if other is not None:
                return True, other
            if not inside:
                return True, path + "/"
        elif (
            kind is None
            or not entry.is_file(follow_symlinks=False)
            or not kind.files.fullmatch(path)
        ):
            return True, path
        found = True
    return found, None
