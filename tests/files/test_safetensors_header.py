"""Headers that no model has: they are refused with a short line."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.safetensors_header import check_file


def write(file: Path, name: str, shape: list[int]) -> Path:
    entry: dict[str, Any] = {"dtype": "U8", "shape": shape, "data_offsets": [0, 1]}
    header = json.dumps({name: entry}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + b"x")
    return file


def test_limits(tmp_path: Path):
    file = tmp_path / "a.safetensors"
    check_file(write(file, "n" * 500, [1] * 16))
    for name, shape in (("n" * 501, [1]), ("n", [1] * 17), ("n" * 10**6, [1] * 10**6)):
        write(file, name, shape)
        with pytest.raises(CheckpointError) as caught:
            check_file(file)
        assert len(str(caught.value)) < 500
        assert f"{len(shape)} dimensions and {len(name)} letters" in str(caught.value)
