"""save_tensors: shards, the index, a full disk, writes that no disk reports."""

import json
import os
import re
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.convert import save_weights
from fastvlm_mlx.convert.save_weights import save_tensors
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.weights.aligned_file import write_aligned
from fastvlm_mlx.weights.weight_files import INDEX, load_tensors, weight_files


def test_shards_hold_all_and_are_let_go(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(save_weights, "MAX_SHARD_BYTES", 100)
    tensors = {f"t{n}": mx.full((16,), n, mx.float32) for n in range(3)}
    wanted, seen = dict(tensors), []
    size = save_tensors(tmp_path, tensors, lambda done, total: seen.append(done))
    assert tensors == {}
    assert (size, seen) == (192, [64, 128, 192])
    index = json.loads((tmp_path / INDEX).read_text())
    assert set(index["weight_map"]) == set(wanted)
    assert index["metadata"]["total_size"] == size
    files = weight_files(tmp_path)
    assert len(files) == 3
    stored = {n: a for file in files for n, a in load_tensors(file).items()}
    assert all(mx.array_equal(stored[name], wanted[name]) for name in wanted)


def test_too_little_room_is_said_before_writing(tmp_path: Path):
    huge = mx.zeros((1 << 20, 1 << 30), mx.uint8)  # never evaluated
    with pytest.raises(OptionError, match="needed, .* free; free some space"):
        save_tensors(tmp_path, {"a": huge})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fell_short(tmp_path: Path, monkeypatch):
    def short(file: Path, *rest) -> None:
        write_aligned(file, *rest)
        file.write_bytes(file.read_bytes()[:-1])

    monkeypatch.setattr(save_weights, "write_aligned", short)
    told = f"{tmp_path / 'model.safetensors'}: was not written whole; convert again"
    with pytest.raises(CheckpointError, match=f"^{re.escape(told)}"):
        save_tensors(tmp_path, {"a": mx.zeros(9)})


def test_a_folder_whose_name_is_no_text(tmp_path: Path):
    """MLX takes UTF-8 paths only; a folder from an old disk may have another name."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this disk takes UTF-8 names only")
    save_tensors(folder, {"a": mx.arange(5)})
    (file,) = weight_files(folder)
    assert load_tensors(file)["a"].tolist() == [0, 1, 2, 3, 4]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="model.safetensors: "):
        load_tensors(file)
