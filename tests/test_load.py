"""Loading a converted folder: strict, with the device's dtype, or one clear error."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from fastvlm_mlx import device, load
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.weights.weight_files import load_tensors
from tests.support import checkpoints
from tests.support.checkpoints import Spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("weights")
    source = checkpoints.write(place / "source", Spec(dtype="bfloat16"))
    to_mlx.convert(source, place / "model")
    to_mlx.convert(source, place / "quantized", q_bits=4, q_group_size=32)
    return place


def parameters(model: FastVLM) -> dict[str, mx.array]:
    flat = tree_flatten(model.parameters())
    return dict(cast(list[tuple[str, mx.array]], flat))


@pytest.mark.parametrize("dtype", [None, "float32", "float16", "bfloat16"])
def test_dtype(folder: Path, dtype: str | None):
    model = load(folder / "model", dtype=dtype)
    wanted = {
        None: device.device_dtype([mx.zeros(1)]),
        "float32": mx.float32,
        "float16": mx.float16,
        "bfloat16": mx.bfloat16,
    }[dtype]
    assert {a.dtype for a in parameters(model).values()} == {wanted}


def test_quantized_layers_are_undone_on_the_cpu(folder: Path):
    model = load(folder / "quantized")
    packed = any(name.endswith(".scales") for name in parameters(model))
    assert packed == device.on_gpu()


def test_a_path_a_string_and_every_load_are_the_same(folder: Path):
    first, second = load(folder / "model"), load(str(folder / "model"))
    again = parameters(second)
    for name, array in parameters(first).items():
        assert mx.array_equal(array, again[name]), name


def test_an_unknown_dtype(folder: Path):
    with pytest.raises(OptionError, match="int8.*unknown; use float32"):
        load(folder / "model", dtype="int8")


def test_a_model_that_is_not_there(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no such file or folder"):
        load(tmp_path / "absent")


def config(**values: Any) -> Callable[[Path], None]:
    def spoil(folder: Path):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def part(name: str, values: dict[str, Any]) -> Callable[[Path], None]:
    def spoil(folder: Path):
        path = folder / "config.json"
        whole = json.loads(path.read_text())
        whole[name] |= values
        path.write_text(json.dumps(whole))

    return spoil


def vision(**values: Any) -> Callable[[Path], None]:
    return part("vision", values)


def text(**values: Any) -> Callable[[Path], None]:
    return part("text", values)


def rename(folder: Path):
    stored = load_tensors(folder / "model.safetensors")
    stored["language_model.model.norm.wait"] = stored.pop(
        "language_model.model.norm.weight"
    )
    mx.eval(stored)
    mx.save_safetensors(str(folder / "model.safetensors"), stored)


def cut(folder: Path):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-9])


CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another version": (
        config(format_version=99),
        "format_version 99 is not 1; convert",
    ),
    "no version": (config(format_version=None), "format_version None"),
    "a long version": (
        config(format_version="a" * 9999),
        "format_version .a{199} is not 1; convert",
    ),
    "vision a list": (config(vision=[1]), "vision|VisionConfig is .*not an object"),
    "text a number": (config(text=7), "not an object|text"),
    "image_size odd": (config(image_size=100), "is not a multiple of"),
    "fit unknown": (config(fit="squash"), "fit 'squash' is unknown; use one of pad"),
    "template unknown": (config(template="chatml"), "template 'chatml' is unknown"),
    "package elsewhere": (config(coreml_encoder="../../x.mlpackage"), "coreml_encoder"),
    "pinpoints nonsense": (config(grid_pinpoints=[[1]]), "grid_pinpoints"),
    "pinpoints a number": (config(grid_pinpoints=3), "config.json"),
    "depths absurd": (vision(depths=[10**9] * 5), r"vision.depths\[0\] is 1000000000"),
    "depths of another model": (vision(depths=[1, 1, 2, 1, 2]), "is missing"),
    "widths strings": (vision(embed_dims=["a"]), r"embed_dims\[0\] is 'a'"),
    "widths nothing": (vision(embed_dims=[]), "the number of vision stages is 0"),
    "mixer unknown": (vision(token_mixers=["x"] * 5), "token_mixers 'x' is unknown"),
    "layer_norm a string": (vision(layer_norm="false"), "layer_norm is 'false' where"),
    "tied a string": (text(tie_word_embeddings="true"), "embeddings is 'true' where"),
    "eps NaN": (vision(layer_norm_eps=float("nan")), "layer_norm_eps is nan"),
    "heads do not divide": (vision(head_dim=7), "which heads of 7 do not divide"),
    "tensors cut": (cut, "damaged or incomplete"),
    "tensors renamed": (rename, "norm.weight is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "no tokenizer.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights there"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_converted_folder_that_was_spoilt(name: str, folder: Path, tmp_path: Path):
    spoil, message = CASES[name]
    model = shutil.copytree(folder / "model", tmp_path / "model")
    spoil(model)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(model)
    assert str(caught.value).isprintable()
