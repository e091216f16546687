"""Where coremltools puts its temporary files, and how much room it needs at least."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx.utils import tree_flatten

from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.files.disk_space import free_space
from fastvlm_mlx.model.vlm import FastVLMModel


def least_bytes(model: FastVLMModel, options: CoreMLOptions) -> int:
    """The bytes of the weights twice: coremltools writes them, then copies them."""
    parts = [model.vision_tower, model.projector if options.projector else None]
    arrays = [part.parameters() for part in parts if part is not None]
    leaves: Any = tree_flatten(arrays)
    count = sum(array.size for _, array in leaves)
    width = 4 if options.precision == "float32" else 2
    # At most a quarter of the bits is left by `palette6` and its like.
    return 2 * count * width // (4 if options.compression else 1)


@contextlib.contextmanager
def temporary_files_in(folder: Path, needed: int) -> Iterator[None]:
    """Gives coremltools `folder` for its temporary files, as large as the package.

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
        # coremltools' C++ libraries do not say why writing failed.
        if free_space(folder) < needed:
            full = errno.ENOSPC
            raise OSError(full, os.strerror(full), str(folder)) from error
        raise
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
