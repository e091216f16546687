"""Writes safetensors files in which every large tensor begins at a multiple of 64.

The kernels of a Linux CPU read weights where they lie in a file that is mapped
(`cpu/mapped_weights.py`). MLX's own writer leaves the first tensor wherever the header
ends, mostly at an odd byte, and puts tensors in no order.
Format: https://github.com/huggingface/safetensors#format
"""

import json
import struct
from pathlib import Path
from typing import Any, cast

import mlx.core as mx

from fastvlm_mlx.weights.weight_files import Tensors

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

_DTYPES = {
    mx.bool_: "BOOL",
    mx.uint8: "U8",
    mx.int8: "I8",
    mx.uint16: "U16",
    mx.int16: "I16",
    mx.float16: "F16",
    mx.bfloat16: "BF16",
    mx.uint32: "U32",
    mx.int32: "I32",
    mx.float32: "F32",
    mx.uint64: "U64",
    mx.int64: "I64",
}


def write_aligned(file: Path, tensors: Tensors, metadata: dict[str, str]) -> None:
    """Writes `tensors` by name, those of whole multiples of 64 bytes first.

    Raises:
        OSError: the disk refuses.
    """
    # Without holes, as the format wants it, the others' ends would shift them.
    names = sorted(
        tensors,
        key=lambda name: (_overhang(tensors[name]), -_item(tensors[name]), name),
    )
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        array, begin = tensors[name], end
        end += array.nbytes
        header[name] = {
            "dtype": _DTYPES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            if tensors[name].size:
                opened.write(memoryview(cast(Any, mx.contiguous(tensors[name]))))


def _overhang(array: mx.array) -> bool:
    return array.nbytes % ALIGNMENT > 0


def _item(array: mx.array) -> int:
    return array.dtype.size
