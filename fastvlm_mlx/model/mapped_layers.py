"""Stored layers (`stored_layers.py`) whose weights stay in their files, mapped.

The encoder's weights are float32 in a model folder where they were folded. Beside a
conversion in the cache they are kept once more, as they are used: in bfloat16, in the
order of their names. That file begins with a dot: it is no part of the model, and the
conversion is whole without it.
"""

import contextlib
from pathlib import Path

import mlx.core as mx

from fastvlm_mlx.cpu import mapped_weights
from fastvlm_mlx.errors import CheckpointError, FastVLMError
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.disk_space import check_free_space
from fastvlm_mlx.files.safetensors_header import check_file, read_metadata
from fastvlm_mlx.hub.local_cache import is_conversion
from fastvlm_mlx.model.stored_layers import ENCODER
from fastvlm_mlx.weights.aligned_file import write_aligned
from fastvlm_mlx.weights.weight_files import Tensors, weight_files

ENCODER_FILE = ".encoder-bfloat16.safetensors"


def map_kept(kept: Tensors, tensors: Tensors, folder: Path) -> Tensors:
    """`kept`, but mapped what lies in a file of `folder` as it is used.

    Args:
        kept: what `keep_stored` made of `tensors`.
        tensors: by name, as they were loaded from `folder`.
    """
    as_stored = {name for name, array in kept.items() if tensors[name] is array}
    encoder = {n: array for n, array in kept.items() if n.startswith(ENCODER)}
    found = weight_files(folder)
    files = [(file, as_stored) for file in found if file.suffix == ".safetensors"]
    if encoder and is_conversion(folder) and (file := _encoder_file(folder, encoder)):
        files = [(file, encoder.keys()), *((f, n - encoder.keys()) for f, n in files)]
    mapped: Tensors = {}
    for file, names in files:
        found = mapped_weights.map_tensors(file, names)
        fitting = {n: a for n, a in found.items() if _are_alike(a, kept[n])}
        mapped_weights.read_ahead(file, fitting.values())
        mapped |= fitting
    return kept | mapped


def _are_alike(a: mx.array, b: mx.array) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape)


def _encoder_file(folder: Path, encoder: Tensors) -> Path | None:
    """Where the encoder's weights lie in bfloat16, written if need be and possible."""
    file, source = folder / ENCODER_FILE, _state(folder)
    with contextlib.suppress(OSError, FastVLMError):
        if not _is_of(source, file):
            check_free_space(folder, sum(array.nbytes for array in encoder.values()))
            with staged_file(file, overwrite=True) as partial:
                write_aligned(partial, encoder, {"source": source})
        if _is_of(source, file):
            return file
    return None


def _is_of(source: str, file: Path) -> bool:
    """Whether `file` is whole and was made of `source`."""
    try:
        check_file(file)
        return read_metadata(file).get("source") == source
    except (OSError, CheckpointError):
        return False


def _state(folder: Path) -> str:
    stats = [(file.name, file.stat()) for file in weight_files(folder)]
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
