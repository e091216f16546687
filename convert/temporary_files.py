"""Where an export's libraries put temporary files, and how much room they need."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from fastvlm_mlx.files.disk_space import free_space


def least_bytes(parts: Sequence[Any], precision: str, *, compressed: bool) -> int:
    """The bytes of the weights of `parts`, MLX modules or None, once, at least."""
    arrays = [part.parameters() for part in parts if part is not None]
    leaves: Any = tree_flatten(arrays)
    count = sum(array.size for _, array in leaves)
    width = 4 if precision == "float32" else 2
    # At most a quarter of the bits is left by `palette6`, `int4-block` and their like.
    return count * width // (4 if compressed else 1)


@contextlib.contextmanager
def temporary_files_in(folder: Path, needed: int) -> Iterator[None]:
    """Gives libraries `folder` for their temporary files, as large as the output.

    In the system's temporary folder those of a killed process would stay, and that
    disk may be a small one.

    Raises:
        OSError: writing failed with less than `needed` bytes free.
    """
    folder.mkdir()
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    except RuntimeError as error:
        # Neither coremltools' C++ libraries nor Core AI's say why writing failed.
        if free_space(folder) < needed:
            full = errno.ENOSPC
            raise OSError(full, os.strerror(full), str(folder)) from error
        raise
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
