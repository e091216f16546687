"""Checks by its header that a safetensors file is complete.

MLX reads tensors when they are first used, long after it opened the file: a download
that broke off would fail in the middle of a conversion, or not at all.
Format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.model_file import check_pointer, check_regular, unreadable

# The format's own limit on headers.
_MAX_HEADER = 100_000_000
# No tensor of a model comes near; names and shapes stand in messages.
_MAX_NAME = 500
_MAX_DIMENSIONS = 16

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64"), 8),
}


def check_file(file: Path) -> None:
    """Refuses a file that is not safetensors from its first byte to its last.

    Raises:
        CheckpointError: truncated, corrupt, of another format, or with a dtype that
            no FastVLM checkpoint has.
    """
    try:
        check_regular(file)
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(8)
            if start == b"version ":
                check_pointer(file, start + opened.read(60))
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(_MAX_HEADER, size):
                raise _damaged(file, _what_it_is(start, size))
            header = opened.read(length)
    except OSError as fault:
        raise unreadable(file, fault) from fault
    try:
        entries = json.loads(header)
    except (ValueError, RecursionError) as fault:
        raise _damaged(file, "its header is not JSON") from fault
    if not isinstance(entries, dict):
        raise _damaged(file, "its header is not a JSON object")
    data = size - 8 - length
    end = 0
    for name, entry in entries.items():
        if name != "__metadata__":
            end = max(end, _check_entry(file, name, entry, data))
    if end != data:
        raise _damaged(file, f"{data} bytes of tensors where {end} should be")


def read_metadata(file: Path) -> dict[str, str]:
    """What the writer of a file that `check_file` accepts noted in its header."""
    metadata = _read(file)[0].get("__metadata__")
    if not isinstance(metadata, dict):
        return {}
    return {str(name): str(value) for name, value in metadata.items()}


def tensor_offsets(file: Path) -> dict[str, int]:
    """At which byte of a file that `check_file` accepts each tensor begins."""
    entries, data = _read(file)
    return {
        name: data + entry["data_offsets"][0]
        for name, entry in entries.items()
        if name != "__metadata__"
    }


def _read(file: Path) -> tuple[dict[str, Any], int]:
    """The header, and where it ends."""
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8))[0]
        return json.loads(opened.read(length)), 8 + length


def _check_entry(file: Path, name: str, entry: Any, data: int) -> int:
    """Where the tensor's bytes end, after the header."""
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape = entry.get("dtype"), entry.get("shape")
    offsets = entry.get("data_offsets")
    if not (_are_counts(shape) and _are_counts(offsets) and len(offsets) == 2):
        raise _damaged(file, f"tensor {name:.200} has no shape or place")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise CheckpointError(
            f"{file}: tensor {name:.200} is of dtype {dtype!r:.40}; get a float32,"
            " float16, bfloat16 or MLX-quantized checkpoint"
        )
    if len(name) > _MAX_NAME or len(shape) > _MAX_DIMENSIONS:
        raise _damaged(
            file,
            f"tensor {name:.200} has {len(shape)} dimensions and {len(name)} letters",
        )
    begin, end = offsets
    if end > data:
        raise _damaged(file, f"tensor {name:.200} ends at {end} of {data} bytes")
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise _damaged(file, f"tensor {name:.200} has shape {shape} in {offsets}")
    return end


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 1 << 48 for value in values
    )


def _what_it_is(start: bytes, size: int) -> str:
    if not size:
        return "the file is empty"
    if start.startswith(b"PK"):
        return "it is a zip archive"
    return "it is not a safetensors file, or cut short"


def _damaged(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file}: damaged or incomplete ({reason}); download it again"
    )
