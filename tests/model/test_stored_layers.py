"""Layers that keep bfloat16 or quantized weights on a CPU."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from fastvlm_mlx import device
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.fastvlm import FastVLM, load
from fastvlm_mlx.model import parameters as model_parameters
from fastvlm_mlx.model import stored_layers
from tests.support import checkpoints
from tests.support.assert_close import assert_close
from tests.support.checkpoints import Spec

# Of the standard deviation: the order of float32 sums; x in steps of 1 / 32767 of a
# block's largest number, where few rows meet quantized weights.
LIMIT, LIMIT_OF_INTEGERS = 2e-5, 4e-4


@pytest.fixture(autouse=True)
def compiled() -> None:
    if device.on_gpu() or kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")


def widened(layer: Any) -> mx.array:
    if "scales" in layer:
        scales, biases = (layer[n].astype(mx.float32) for n in ("scales", "biases"))
        parts = (layer.weight, scales, biases)
        return mx.dequantize(*parts, group_size=layer.group_size, bits=layer.bits)
    return layer.weight.astype(mx.float32)


def stored(
    layer: nn.Module, bits: int, group_size: int, dtype: mx.Dtype = mx.float32
) -> Any:
    """`layer` as `load` makes it: weights of so many bits, quantized from `dtype`."""
    holder = nn.Sequential(layer)
    tensors = {"layers.0.weight": layer["weight"].astype(mx.bfloat16)}
    if bits < 16:
        names = ("weight", "scales", "biases")
        parts = mx.quantize(layer["weight"].astype(dtype), group_size, bits)
        tensors = {f"layers.0.{n}": p for n, p in zip(names, parts, strict=True)}
    settings = {"group_size": group_size, "bits": bits}
    kept = stored_layers.keep_stored(holder, tensors, settings)
    assert kept.keys() == tensors.keys()
    used = {tensor.dtype for tensor in kept.values()}
    wide = {mx.float32} if dtype == mx.float16 else {dtype}
    assert used == ({mx.bfloat16} if bits == 16 else {mx.uint32, *wide})
    rest = {"layers.0.bias": layer["bias"]} if "bias" in layer else {}
    holder.load_weights(list((kept | rest).items()))
    return holder.layers[0]


@pytest.mark.parametrize(
    ("bits", "group_size"),
    [(16, 0), (4, 32), (4, 64), (4, 128), (8, 32), (8, 64), (8, 128)],
)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 16, 17, 70])
def test_products_equal_those_of_the_widened_weight(
    monkeypatch, bits: int, group_size: int, rows: int, dtype: mx.Dtype
):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    mx.random.seed(bits + rows)
    limit = LIMIT if bits == 16 or rows > 32 else LIMIT_OF_INTEGERS
    # Blocks and groups that are whole, and those that are not.
    for out_dim, dim, bias in ((8, 384, True), (65, 320, False), (300, 2176, True)):
        if group_size and dim % group_size:
            continue
        linear = nn.Linear(dim, out_dim, bias=bias)
        layer = stored(linear, bits, group_size, dtype)
        x = mx.random.normal((2, rows, dim))
        wanted = x @ widened(layer).T + (layer.bias if bias else 0)
        assert_close("layer", layer(x), wanted, limit)
        with kernels.switched_off():
            assert_close("layer", layer(x), wanted, LIMIT)
    table = stored(nn.Embedding(130, 384), bits, group_size, dtype)
    ids = mx.array([[3, 129, 0]])
    assert mx.array_equal(table(ids), widened(table)[ids])
    assert table(ids).dtype == mx.float32
    x = mx.random.normal((1, rows, 384))
    assert_close("head", table.as_linear(x), x @ widened(table).T, limit)


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_a_row_is_the_same_alone_and_in_a_batch(monkeypatch, bits: int):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    layer = stored(nn.Linear(896, 70), bits, 64)
    x = mx.random.normal((16, 1, 896))
    alone = mx.concatenate([layer(row[None]) for row in x])
    for count in range(2, 17):
        assert mx.array_equal(layer(x[:count]), alone[:count]), count


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_numbers_of_every_size(monkeypatch, bits: int):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    layer = stored(nn.Linear(128, 8), bits, 64)
    assert mx.array_equal(layer(mx.zeros((1, 128))), layer.bias[None])
    x = mx.random.normal((3, 128)) * mx.array([[1e-15], [1.0], [1e15]])
    wanted = x @ widened(layer).T + layer.bias
    for row, given in zip(wanted, layer(x), strict=True):
        assert_close("row", given, row, LIMIT_OF_INTEGERS)
    for fault in ("inf", "nan"):
        x[1, 70] = float(fault)
        given = layer(x)
        assert not mx.isfinite(given[1]).any()
        assert mx.isfinite(given[0]).all() and mx.isfinite(given[2]).all()


def test_gradients_pass_through(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    for bits in (16, 4):
        layer = stored(nn.Linear(64, 8), bits, 32)
        with kernels.switched_off():
            found = mx.grad(lambda x, layer=layer: layer(x).sum())(mx.ones((1, 64)))
        assert_close("gradient", found[0], widened(layer).sum(axis=0), LIMIT)


@pytest.mark.parametrize(
    ("width", "dtype"), [(96, mx.bfloat16), (128, mx.float16), (128, mx.float32)]
)
def test_what_the_kernels_do_not_take_is_widened(monkeypatch, width, dtype):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    layer = nn.Sequential(nn.Linear(width, 8))
    tensors = {"layers.0.weight": mx.zeros((8, width), dtype)}
    assert not stored_layers.keep_stored(layer, tensors, None)
    assert type(layer.layers[0]) is nn.Linear


def test_other_bits_are_widened(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    layer = nn.Sequential(nn.Linear(128, 8))
    parts = mx.quantize(layer.layers[0].weight, 64, 6)
    names = ("weight", "scales", "biases")
    tensors = {f"layers.0.{n}": part for n, part in zip(names, parts, strict=True)}
    settings = {"group_size": 64, "bits": 6}
    assert not stored_layers.keep_stored(layer, tensors, settings)


def test_an_adapter_of_full_weights_replaces_them(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    layer = stored(nn.Linear(64, 8), 16, 0)
    layer.weight = mx.random.normal((8, 64))
    x = mx.random.normal((1, 64))
    assert mx.array_equal(layer(x), x @ layer.weight.T + layer.bias)


def parameters(model: FastVLM) -> dict[str, mx.array]:
    flat: Any = tree_flatten(model.parameters())
    return dict(flat)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stored")
    source = checkpoints.write(place / "source", Spec(hidden=64, dtype="bfloat16"))
    to_mlx.convert(source, place / "bfloat16")
    to_mlx.convert(source, place / "quantized", q_bits=4, q_group_size=32)
    return place


@pytest.mark.parametrize("name", ["bfloat16", "quantized"])
def test_a_model_answers_as_with_float32(monkeypatch, folder: Path, name: str):
    exact = load(folder / name, dtype="float32")
    small = load(folder / name)
    assert {array.dtype for array in parameters(small).values()} == {mx.float32}
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    model = load(folder / name)
    kept = parameters(model)
    packed = {mx.uint32} if name == "quantized" else set()
    assert {a.dtype for a in kept.values()} == {mx.float32, mx.bfloat16} | packed
    smaller = sum(a.nbytes for n, a in kept.items() if "vision" not in n)
    whole = sum(a.nbytes for n, a in parameters(exact).items() if "vision" not in n)
    assert smaller < (0.55 if name == "bfloat16" else 0.4) * whole
    ids = mx.array([[1, 2, 3, 4, 5]])
    assert_close("logits", model(ids), exact(ids), 1e-3)
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    options = {"max_tokens": 12, "ignore_eos": True}
    assert model.ask("What?", image, **options) == exact.ask("What?", image, **options)


def test_small_models_and_a_named_dtype_are_widened(folder: Path, monkeypatch):
    small = parameters(load(folder / "bfloat16"))
    assert {array.dtype for array in small.values()} == {mx.float32}
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    exact = parameters(load(folder / "quantized", dtype="float32"))
    assert {array.dtype for array in exact.values()} == {mx.float32}


def test_without_a_compiler_they_are_widened(folder: Path, monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    monkeypatch.setattr(kernels, "library", lambda: None)
    model = parameters(load(folder / "bfloat16"))
    assert {array.dtype for array in model.values()} == {mx.float32}


def test_no_weight_is_in_memory_in_two_dtypes(folder: Path, monkeypatch):
    monkeypatch.setattr(model_parameters, "_READ_AT_ONCE", 2**14)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load(folder / "bfloat16", dtype="float32")
    held = sum(array.nbytes for array in parameters(model).values())
    peak = mx.get_peak_memory() - before
    print(f"{held} bytes of weights, {peak} bytes at most")
    assert held <= peak < 1.2 * held
