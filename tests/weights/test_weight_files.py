"""Which files of a folder are its weights, and what is said of those that are none."""

import json
import os
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.weights import weight_files as weight_file_names
from fastvlm_mlx.weights.weight_files import (
    INDEX,
    load_all_tensors,
    reading,
    weight_files,
)

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def write(folder: Path, *names: str) -> None:
    """A file of one tensor, called like the file, for each name."""
    for name in names:
        mx.save_safetensors(str(folder / name), {name: mx.ones(4)})


def write_index(folder: Path, *names: object) -> None:
    weight_map = {f"tensor {n}": name for n, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_all_tensors(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "fastvlm.safetensors"])
def test_files_that_macos_leaves_are_no_weights(tmp_path: Path, name: str):
    write(tmp_path, name)
    (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    assert load_all_tensors(tmp_path).keys() == {name}


def test_folders_are_no_weights(tmp_path: Path):
    write(tmp_path, "a.safetensors")
    (tmp_path / "b.safetensors").mkdir()
    assert load_all_tensors(tmp_path).keys() == {"a.safetensors"}


def test_the_index_of_shards_that_were_merged(tmp_path: Path):
    write(tmp_path, "model.safetensors")
    write_index(tmp_path, *SHARDS)
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]
    write(tmp_path, SHARDS[0])  # half of them are there: what was meant is not known
    assert f"{tmp_path / SHARDS[1]}: this shard, which" in refused(tmp_path)
    write(tmp_path, SHARDS[1])
    assert weight_files(tmp_path) == [tmp_path / name for name in SHARDS]


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_shard_without_an_index(tmp_path: Path, missing: int):
    there = [n for n in (1, 2, 3) if n != missing]
    write(tmp_path, *(f"model-0000{n}-of-00003.safetensors" for n in there))
    assert refused(tmp_path) == (
        f"{tmp_path}: shard {missing} of 3 is missing; download it too"
    )


def test_the_last_of_very_many_shards():
    files = [Path(f"model-{n:06}-of-100000.safetensors") for n in range(1, 10**5)]
    with pytest.raises(CheckpointError, match=": shard 100000 of 100000 is missing"):
        weight_file_names._check_shards(files)
    weight_file_names._check_shards([*files, Path("m-100000-of-100000.safetensors")])


def test_a_name_that_claims_any_number_of_shards():
    with pytest.raises(CheckpointError, match=f": shard 1 of {10**15} is missing"):
        weight_file_names._check_shards([Path(f"model-2-of-{10**15}.safetensors")])


@pytest.mark.parametrize(
    "name",
    [
        "x" * 300,
        "\u00e9" * 150,  # 150 letters, 300 bytes
        "/dev/zero",
        "../model.safetensors",
        "..",
        ".",
        "",
        "a\0b",
        "\ud800",
        7,
        None,
        ["model.safetensors"],
        {"a": 1},
    ],
)
def test_shards_that_are_no_file_names(tmp_path: Path, name: object):
    write(tmp_path, "model.safetensors")
    write_index(tmp_path, "model.safetensors", name)
    line = refused(tmp_path)
    assert line.startswith(f"{tmp_path / INDEX}: names the shard {name!r:.200}")
    assert line.endswith("not a file beside it; download the checkpoint again")


def test_a_shard_that_is_a_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / SHARDS[0])
    write_index(tmp_path, SHARDS[0])
    assert "is a pipe, not a file; put the model's own file there" in refused(tmp_path)


def test_weights_that_are_no_file(tmp_path: Path):
    weights = tmp_path / "model.safetensors"
    os.mkfifo(weights)
    assert refused(tmp_path).startswith(f"{weights}: is a pipe, not a file")
    assert refused(weights).startswith(f"{weights}: is a pipe, not a file")
    weights.unlink()
    weights.symlink_to(tmp_path / "nowhere")
    assert refused(tmp_path) == (
        f"{weights}: cannot be read (No such file or directory); it is a link to"
        " nothing, get the file again"
    )
    weights.unlink()
    weights.symlink_to("/dev/zero")
    assert refused(tmp_path).startswith(f"{weights}: is a device, not a file")
    assert "/dev/zero: is a device, not a file" in refused(Path("/dev/zero"))


def test_weights_that_are_cut_after_their_check(tmp_path: Path):
    write(tmp_path, "model.safetensors")
    weights = tmp_path / "model.safetensors"
    tensors = load_all_tensors(tmp_path)
    os.truncate(weights, weights.stat().st_size - 4)
    told = "weights were cut or replaced while they were read; run it again once they"
    with pytest.raises(CheckpointError, match=f"^{tmp_path}: its {told}"):
        with reading(tmp_path):
            mx.eval(tensors)
    with pytest.raises(CheckpointError, match=f"^the model's {told}"):
        with reading():
            raise RuntimeError("[read] Unable to read 16 bytes from file.")


def test_a_failed_read_is_not_raised_again(tmp_path: Path, monkeypatch):
    left = ["[read] Unable to read from file."] * 5
    evaluate = mx.eval

    def raising(*arrays: mx.array) -> None:
        if left:
            raise RuntimeError(left.pop())
        evaluate(*arrays)

    monkeypatch.setattr(mx, "eval", raising)
    with pytest.raises(CheckpointError, match="were cut or replaced while"):
        with reading(tmp_path):
            raise RuntimeError("[read] Unable to read from file.")
    mx.eval(mx.zeros(1) + 1)


@pytest.mark.parametrize("single", [True, False])
def test_weights_that_are_replaced_while_they_are_read(tmp_path: Path, single: bool):
    write(tmp_path, "model.safetensors")
    weights = tmp_path / "model.safetensors"
    place = weights if single else tmp_path
    with reading(place):
        (tmp_path / "notes.txt").touch()
        (tmp_path / "._model.safetensors").touch()
    with pytest.raises(CheckpointError, match="were cut or replaced while"):
        with reading(place):
            os.utime(weights, ns=(1, 1))
    with reading(place):  # who has it open can read on
        weights.unlink()


def test_other_errors_pass(tmp_path: Path):
    with pytest.raises(RuntimeError, match="^out of memory$"):
        with reading(tmp_path):
            raise RuntimeError("out of memory")


@pytest.mark.skipif(sys.platform == "darwin", reason="its names are all UTF-8")
def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"m\xff")
    folder.mkdir()
    write(tmp_path, "model.safetensors")
    (tmp_path / "model.safetensors").rename(folder / "model.safetensors")
    loaded = load_all_tensors(folder)
    mx.eval(loaded)
    assert loaded
