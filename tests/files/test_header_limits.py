"""The safetensors header at its limits, and the shards of a folder."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.safetensors_header import check_file
from fastvlm_mlx.weights.weight_files import weight_files


def write(folder: Path, entries: Any, data: int, length: int | None = None) -> Path:
    header = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    size = len(header) if length is None else length
    file = folder / "model.safetensors"
    file.write_bytes(struct.pack("<Q", size) + header + bytes(data))
    return file


def tensor(dtype: str, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        *(("BOOL", 1), ("U8", 1), ("I8", 1), ("U16", 2), ("I16", 2), ("F16", 2)),
        *(("BF16", 2), ("U32", 4), ("I32", 4), ("F32", 4), ("U64", 8), ("I64", 8)),
    ],
)
def test_the_bytes_of_each_dtype(dtype: str, size: int, tmp_path: Path):
    check_file(write(tmp_path, {"a": tensor(dtype, [3], 0, 3 * size)}, 3 * size))
    for wrong in (3 * size - 1, 3 * size + 1):
        with pytest.raises(CheckpointError, match=r"tensor a has shape \[3\] in"):
            check_file(write(tmp_path, {"a": tensor(dtype, [3], 0, wrong)}, wrong))


@pytest.mark.parametrize(
    ("entries", "data"),
    [
        ({}, 0),
        ({"__metadata__": {"format": "pt"}}, 0),
        ({"a": tensor("F32", [], 0, 4)}, 4),
        ({"a": tensor("F32", [0], 0, 0)}, 0),
        ({"b": tensor("U8", [2], 3, 5), "a": tensor("U8", [3], 0, 3)}, 5),
    ],
)
def test_sound(entries: Any, data: int, tmp_path: Path):
    check_file(write(tmp_path, entries, data))


@pytest.mark.parametrize(
    ("entries", "data", "reason"),
    [
        ({}, 1, "1 bytes of tensors where 0 should be"),
        ({"a": tensor("U8", [3], 0, 3)}, 2, "tensor a ends at 3 of 2 bytes"),
        ({"a": tensor("U8", [3], 0, 3)}, 4, "4 bytes of tensors where 3 should be"),
        ({"a": tensor("U8", [-1], 0, 3)}, 3, "no shape or place"),
        ({"a": tensor("U8", [1 << 48], 0, 3)}, 3, "no shape or place"),
        ({"a": tensor("U8", [True], 0, 1)}, 1, "no shape or place"),
        ({"a": tensor("U8", 3, 0, 3)}, 3, "no shape or place"),
        ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0]}}, 1, "no shape or"),
        ({"a": [1]}, 1, "no shape or place"),
        ([1], 0, "not a JSON object"),
        (b"{}}", 0, "not JSON"),
    ],
)
def test_damaged(entries: Any, data: int, reason: str, tmp_path: Path):
    with pytest.raises(CheckpointError, match=f"damaged or incomplete .*{reason}"):
        check_file(write(tmp_path, entries, data))


def test_a_dtype_that_no_checkpoint_has(tmp_path: Path):
    with pytest.raises(CheckpointError, match="tensor a is of dtype 'F8_E4M3'; get a"):
        check_file(write(tmp_path, {"a": tensor("F8_E4M3", [1], 0, 1)}, 1))


@pytest.mark.parametrize("length", [0, 1, 11, 100_000_001, 2**63])
def test_a_header_that_cannot_be(length: int, tmp_path: Path):
    with pytest.raises(CheckpointError, match="not a safetensors file, or cut short"):
        check_file(write(tmp_path, {}, 0, length))


def test_what_else_it_is(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    for content, said in (
        (b"", "the file is empty"),
        (b"1234567", "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
        (b"PK\x03\x04 and so on", "a zip archive"),
    ):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match=said):
            check_file(file)


@pytest.mark.parametrize("missing", [None, 1, 2, 3])
def test_every_shard_is_needed(missing: int | None, tmp_path: Path):
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    for number, name in enumerate(names, start=1):
        if number != missing:
            (tmp_path / name).touch()
    (tmp_path / "adapter.safetensors").touch()  # no part of the model
    if missing is None:
        assert [file.name for file in weight_files(tmp_path)] == names
    else:
        with pytest.raises(CheckpointError, match=f"shard {missing} of 3 is missing"):
            weight_files(tmp_path)
