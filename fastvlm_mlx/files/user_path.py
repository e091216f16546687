"""Expands `~` in a path that a user gave."""

import os
from pathlib import Path


def expand_user(path: str | Path) -> Path:
    """`path` with a `~` or `~user` at its start expanded, as a shell does it.

    A user that there is none of stays as written, where `Path.expanduser` raises
    RuntimeError: then no such file is found.
    """
    return Path(os.path.expanduser(path))
