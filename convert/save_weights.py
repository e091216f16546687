"""Saves tensors as safetensors shards, and copies the files that go with them."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.disk_space import check_free_space
from fastvlm_mlx.files.progress import Progress
from fastvlm_mlx.files.safetensors_header import check_file
from fastvlm_mlx.weights.aligned_file import write_aligned
from fastvlm_mlx.weights.weight_files import INDEX, Tensors

# One shard is evaluated at a time: bounds a conversion's memory.
MAX_SHARD_BYTES = 1 << 30

LICENCE_FILES = ("LICENSE*", "ACKNOWLEDGEMENTS*", "MODEL_CARD*")


def save_tensors(
    folder: Path, tensors: Tensors, on_progress: Progress | None = None
) -> int:
    """Writes `model.safetensors`, or `model-N-of-M.safetensors` and an index.

    Args:
        folder: exists already.
        tensors: by name; emptied while they are written. Drop other references to
            the arrays before, or they stay in memory.
        on_progress: called with (bytes done, bytes in all).
    Returns:
        the bytes of weights.
    Raises:
        OptionError: they do not fit on the disk.
        CheckpointError: a written file is incomplete.
    """
    total, done = sum(array.nbytes for array in tensors.values()), 0
    check_free_space(folder, total)
    shards = _shards(tensors)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = (
            f"model-{number:05}-of-{len(shards):05}.safetensors"
            if len(shards) > 1
            else "model.safetensors"
        )
        arrays = {name: tensors.pop(name) for name in shard}
        for name in shard:
            mx.eval(arrays[name])
            done += arrays[name].nbytes
            if on_progress is not None:
                on_progress(done, total)
        write_aligned(folder / file, arrays, {"format": "mlx"})
        del arrays
        mx.clear_cache()
        _check_written(folder / file)
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return total


def copy_files(source: Path, patterns: Iterable[str], folder: Path) -> None:
    """Copies the files of `source` that match a glob pattern; no folders."""
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)


def _shards(tensors: Tensors) -> list[list[str]]:
    """The names of the tensors of each shard, in alphabetical order."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors):
        if size + tensors[name].nbytes > MAX_SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensors[name].nbytes
    return shards


def _check_written(file: Path) -> None:
    """Checks the header and size: not every disk reports a failed write."""
    try:
        check_file(file)
    except CheckpointError as fault:
        raise CheckpointError(
            f"{file}: was not written whole; convert again, or to another disk"
        ) from fault
