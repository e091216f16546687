"""Safetensors files whose tensors can be mapped."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.files.safetensors_header import read_metadata, tensor_offsets
from fastvlm_mlx.weights.aligned_file import ALIGNMENT, write_aligned
from fastvlm_mlx.weights.weight_files import load_tensors


@pytest.mark.parametrize("letters", range(1, 10))
def test_large_tensors_are_aligned_and_all_by_their_item(tmp_path: Path, letters: int):
    tensors = {
        "odd": mx.arange(3).astype(mx.uint8),
        "x" * letters: mx.random.normal((5, 64)).astype(mx.bfloat16),
        "vector": mx.random.normal((7,)),
        "half": mx.random.normal((3,)).astype(mx.float16),
        "packed": mx.arange(64).astype(mx.uint32),
        "scalar": mx.array(2.5),
        "none": mx.zeros((0, 4)),
        "é": mx.arange(12).reshape(3, 4).T,
    }
    file = tmp_path / "a.safetensors"
    write_aligned(file, tensors, {"format": "mlx"})
    assert read_metadata(file) == {"format": "mlx"}
    loaded = load_tensors(file)
    assert loaded.keys() == tensors.keys()
    for name, offset in tensor_offsets(file).items():
        wanted = tensors[name]
        assert loaded[name].dtype == wanted.dtype
        assert mx.array_equal(loaded[name], wanted), name
        large = wanted.nbytes % ALIGNMENT == 0
        assert offset % (ALIGNMENT if large else wanted.dtype.size) == 0, name


def test_other_programs_read_it(tmp_path: Path):
    safetensors = pytest.importorskip("safetensors.numpy")
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_aligned(tmp_path / "a", {"a": mx.array(wanted)}, {"format": "mlx"})
    assert np.array_equal(safetensors.load_file(tmp_path / "a")["a"], wanted)


def test_the_header_is_plain_json(tmp_path: Path):
    write_aligned(tmp_path / "a", {"a": mx.zeros(16)}, {"format": "mlx"})
    data = (tmp_path / "a").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert json.loads(data[8 : 8 + length])["a"]["data_offsets"] == [0, 64]
    assert len(data) == 8 + length + 64
