"""Kept features of an image: one safetensors file with a hash of its content."""

import hashlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.safetensors_header import check_file

_NAME = "features"


class DamagedFeatures(Exception):
    """The file is not there, or not as it was written."""


def write_features(path: Path, features: mx.array) -> None:
    """Writes `path`, whole or not at all; its folder is made.

    Raises:
        OptionError: it cannot be written, or the disk is full.
    """
    with staged_file(path, overwrite=True) as partial, partial.open("wb") as file:
        mx.save_safetensors(
            file,  # type: ignore[arg-type]
            {_NAME: features},
            {"hash": array_hash(features)},
        )


def read_features(path: Path) -> mx.array:
    """The features as they were written: (tokens, width).

    Raises:
        DamagedFeatures: there are none, or a byte of them has changed.
    """
    try:
        check_file(path)
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
        tensors, metadata = loaded
        features: mx.array = tensors[_NAME]
        mx.eval(features)
    except (CheckpointError, OSError, RuntimeError, KeyError, ValueError) as error:
        raise DamagedFeatures(str(error)) from error
    if features.ndim != 2 or metadata.get("hash") != array_hash(features):
        raise DamagedFeatures(f"{path}: its content has changed")
    return features


def array_hash(array: mx.array) -> str:
    """A hash of the shape, the dtype and the values: 32 hexadecimal digits."""
    digest = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=16)
    if array.dtype == mx.bfloat16:  # numpy has none
        array = array.view(mx.uint16)
    digest.update(np.ascontiguousarray(np.array(array)).data)
    return digest.hexdigest()
