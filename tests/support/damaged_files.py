"""Functions that damage a sound checkpoint, and `assert_refused`."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.errors import FastVLMError
from tests.support import checkpoints
from tests.support.checkpoints import Spec
from tests.support.encoders import Encoder

WEIGHTS = "model.safetensors"
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

Damage = Callable[[Path], Any]
# Of which checkpoint, how it is broken, what the message must match.
Case = tuple[str, Damage, str]


def write_sound(place: Path) -> dict[str, Path]:
    """Sound checkpoints to break copies of."""
    train = Encoder(fused=False)
    return {
        "llava": checkpoints.write(place / "llava", Spec()),
        "train": checkpoints.write(place / "train", Spec(encoder=train)),
        "shards": checkpoints.write(place / "shards", Spec(shards=3)),
        "quantized": checkpoints.write(
            place / "quantized", Spec(layout="mlx-community", q_bits=4)
        ),
    }


def assert_refused(case: Case, sound: dict[str, Path], place: Path):
    """Converting the broken copy gives one line that matches, and no output."""
    which, damage, message = case
    source = shutil.copytree(sound[which], place / "source")
    damage(source)
    with pytest.raises(FastVLMError, match=message) as caught:
        to_mlx.convert(source, place / "out")
    line = str(caught.value)
    assert line.isprintable() and len(line) < 600, line
    assert [path.name for path in place.iterdir()] == ["source"]


def tensors(change: Callable[[dict[str, mx.array]], Any]) -> Damage:
    """Rewrites the weights with `change` made to them."""

    def damage(folder: Path):
        stored = mx.load(str(folder / WEIGHTS))
        assert isinstance(stored, dict)
        change(stored)
        mx.eval(stored)
        mx.save_safetensors(str(folder / WEIGHTS), stored)

    return damage


def config(**values: Any) -> Damage:
    """Replaces entries of config.json."""

    def damage(folder: Path):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def without(name: str) -> Damage:
    def damage(folder: Path):
        path = folder / "config.json"
        values = json.loads(path.read_text())
        del values[name]
        path.write_text(json.dumps(values))

    return damage


def file(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(size: int) -> Damage:
    """Keeps the first `size` bytes of the weights; negative: all but the last."""

    def damage(folder: Path):
        content = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content[:size])

    return damage


def header(change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path):
        content = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        new = change(content[8 : 8 + length])
        size = struct.pack("<Q", len(new))
        (folder / WEIGHTS).write_bytes(size + new + content[8 + length :])

    return damage


def put(name: str, *shape: int) -> Callable[[dict], None]:
    return lambda stored: stored.update({name: mx.ones(shape)})


def drop(name: str) -> Callable[[dict], None]:
    return lambda stored: stored.pop(name)


def index(change: Callable[[dict], Any]) -> Damage:
    def damage(folder: Path):
        path = folder / "model.safetensors.index.json"
        values = json.loads(path.read_text())
        change(values["weight_map"])
        path.write_text(json.dumps(values))

    return damage


def remove(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def only_pickle(content: bytes) -> Damage:
    def damage(folder: Path):
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return damage
