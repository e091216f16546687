"""Both formulations of every kernel against MLX's plain operations."""

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.model import ops
from fastvlm_mlx.model.vision import Stem
from fastvlm_mlx.model.vision_blocks import DepthwiseConv
from tests.support.assert_close import assert_close

LIMIT = 2e-5  # of the standard deviation, float32


@pytest.fixture(params=["mlx", "cpu"])
def form(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Runs a test with MLX's forms, as on a GPU, and with the compiled kernels."""
    if request.param == "mlx":
        monkeypatch.setattr(kernels, "usable", lambda *arrays: False)
    elif kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    yield request.param


def random(*shape: int, scale: float = 1.0) -> mx.array:
    return mx.random.normal(shape) * scale


def layer(out_dim: int, kernel: int) -> Any:
    weight = random(out_dim, kernel, kernel, 1, scale=1 / kernel)
    made = DepthwiseConv(out_dim, out_dim, kernel)
    made.weight, made.bias = weight, random(out_dim)
    return made


def convolved(x: mx.array, conv: Any, stride: int = 1) -> mx.array:
    pad, groups = conv.weight.shape[1] // 2, x.shape[-1]
    return mx.conv2d(x, conv.weight, stride, pad, groups=groups) + conv.bias


@pytest.mark.parametrize(
    ("shape", "multiplier", "kernel", "stride"),
    [
        ((1, 16, 16, 32), 1, 7, 1),
        ((2, 5, 7, 8), 1, 3, 1),
        ((1, 9, 6, 3), 2, 7, 2),
        ((3, 1, 1, 17), 1, 7, 1),
        ((1, 13, 11, 24), 1, 3, 2),
        ((2, 8, 8, 16), 2, 3, 1),
        ((1, 2, 3, 5), 3, 7, 2),
        ((1, 4, 4, 4), 1, 5, 1),  # a kernel size that is not compiled
    ],
)
@pytest.mark.parametrize("activate", [False, True])
def test_depthwise(form, shape, multiplier, kernel, stride, activate):
    x, conv = random(*shape), layer(shape[-1] * multiplier, kernel)
    wanted = convolved(x, conv, stride)
    assert_close(
        f"{form} {shape}",
        ops.depthwise(x, conv, stride=stride, activate=activate),
        nn.gelu(wanted) if activate else wanted,
        LIMIT,
    )


@pytest.mark.parametrize("shape", [(1, 16, 16, 32), (2, 5, 7, 12), (3, 33, 20, 8)])
def test_conv_ffn(form, shape):
    dim = shape[-1]
    x, conv = random(*shape), layer(dim, 7)
    fc1, fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
    wanted = x + fc2(nn.gelu(fc1(convolved(x, conv))))
    assert_close(form, ops.conv_ffn(x, conv, fc1, fc2), wanted, LIMIT)


def test_conv_ffn_of_quantized_layers():
    x, conv = random(1, 4, 4, 64), layer(64, 7)
    fc1, fc2 = (nn.QuantizedLinear.from_linear(nn.Linear(64, 64)) for _ in range(2))
    wanted = x + fc2(nn.gelu(fc1(convolved(x, conv))))
    assert_close("quantized", ops.conv_ffn(x, conv, fc1, fc2), wanted, LIMIT)


@pytest.mark.parametrize("activate", [False, True])
def test_linear(form, activate):
    x, fc = random(2, 3, 37, 24), nn.Linear(24, 50)
    wanted = nn.gelu(fc(x)) if activate else fc(x)
    assert_close(form, ops.linear(x, fc, activate=activate), wanted, LIMIT)


def rounded(layer: Any) -> Any:
    """`layer` with its weight in bfloat16, and in float32 again."""
    small, wide = (nn.Linear(*layer.weight.shape[::-1]) for _ in range(2))
    small.bias = wide.bias = layer.bias
    small.weight = layer.weight.astype(mx.bfloat16)
    wide.weight = small.weight.astype(mx.float32)
    return small, wide


# Weights of up to 2**20 numbers are widened whole, and then nothing differs.
@pytest.mark.parametrize(
    ("dim", "out_dim", "whole"),
    [(24, 50, True), (512, 1536, True), (512, 2049, False), (1536, 4608, False)],
)
@pytest.mark.parametrize("activate", [False, True])
def test_linear_with_a_bfloat16_weight(dim, out_dim, whole, activate):
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    x, (small, wide) = random(2, 37, dim), rounded(nn.Linear(dim, out_dim))
    given = kernels.linear(x, small.weight, small.bias, activate=activate)
    wanted = kernels.linear(x, wide.weight, wide.bias, activate=activate)
    assert given.dtype == mx.float32
    assert_close("linear", given, wanted, 1e-12 if whole else LIMIT)


@pytest.mark.parametrize(
    ("shape", "hidden", "whole"),
    [
        ((2, 5, 7, 12), 48, True),
        ((1, 16, 9, 96), 384, True),
        ((3, 4, 4, 512), 4099, False),
    ],
)
def test_conv_ffn_with_bfloat16_weights(shape, hidden, whole):
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    x, conv, dim = random(*shape), layer(shape[-1], 7), shape[-1]
    fc1, wide1 = rounded(nn.Linear(dim, hidden))
    fc2, wide2 = rounded(nn.Linear(hidden, dim))
    assert kernels.take_weights(fc1.weight, fc2.weight)
    assert not kernels.take_weights(fc1.weight, wide2.weight)
    given = ops.conv_ffn(x, conv, fc1, fc2)
    wanted = ops.conv_ffn(x, conv, wide1, wide2)
    assert given.dtype == mx.float32
    assert_close("conv_ffn", given, wanted, 1e-12 if whole else LIMIT)
    with kernels.switched_off():
        assert_close("mlx", ops.conv_ffn(x, conv, fc1, fc2), wanted, LIMIT)


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 36, 20), (3, 4, 4), (1, 8, 132)])
def test_stem(shape):
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    x, part = random(*shape, 3), Stem(24)
    part.conv.weight, part.conv.bias = random(24, 3, 3, 3, scale=0.2), random(24)
    part.depthwise.weight, part.depthwise.bias = random(24, 3, 3, 1), random(24)
    part.pointwise, wide = rounded(part.pointwise)
    given = part(x)
    part.pointwise = wide
    wanted = part(x)
    assert given.dtype == mx.float32
    assert_close("stem", given, wanted, LIMIT)


def test_the_stem_kernel_refuses_other_sides():
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    part = Stem(8)
    part.pointwise, _ = rounded(part.pointwise)
    with pytest.raises(ValueError, match="stem: weight of shape"):
        part(random(1, 8, 6, 3))


@pytest.mark.parametrize("length", [1, 17, 300])
def test_attention(form, length):
    qkv = random(2, length, 3 * 64, scale=2)
    q, k, v = qkv.reshape(2, length, 3, 2, 32).transpose(2, 0, 3, 1, 4)
    weights = mx.softmax(q @ k.swapaxes(-1, -2) / math.sqrt(32), axis=-1)
    wanted = (weights @ v).transpose(0, 2, 1, 3).reshape(2, length, 64)
    assert_close(form, ops.attention(qkv, 32), wanted, LIMIT)


@pytest.mark.parametrize(("length", "total"), [(1, 1), (5, 9), (280, 280), (40, 300)])
def test_causal_attention(length, total):
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    q, k, v = random(1, 6, length, 16), random(1, 2, total, 16), random(1, 2, total, 16)
    wanted = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.25, mask="causal")
    assert_close("causal", kernels.causal_attention(q, k, v), wanted, LIMIT)


def test_gelu_is_exact_everywhere(form):
    x = np.concatenate([np.linspace(-12, 12, 4001), [0, 1e-30, -50, 50, 3e38]])
    wanted = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.tolist()]
    given = np.array(ops.gelu(mx.array(x.astype(np.float32))), np.float64)
    # Relative beyond 1: float32 has 24 bits.
    error = np.abs(given - wanted) / np.maximum(1, np.abs(x))
    print(f"{form}: largest error {error.max():.1e} at {x[error.argmax()]:g}")
    assert error.max() < 1e-6


def test_softmax_of_large_scores_does_not_overflow(form):
    qkv = mx.concatenate([random(1, 40, 64, scale=100), random(1, 40, 32)], axis=-1)
    assert mx.isfinite(ops.attention(qkv, 32)).all()


def test_swiglu():
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    gate, up = random(1, 70, 1000, scale=20), random(1, 70, 1000)
    assert_close(
        "swiglu", kernels.swiglu(gate, up), gate * mx.sigmoid(gate) * up, LIMIT
    )


def test_the_kernels_refuse_what_they_would_read_beyond():
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    with pytest.raises(ValueError, match=r"linear: weight of shape \(8, 16\)"):
        ops.linear(random(2, 12), nn.Linear(16, 8))
    with pytest.raises(ValueError, match="conv_ffn: weight of shape"):
        conv = layer(8, 7)
        ops.conv_ffn(random(1, 4, 4, 8), conv, nn.Linear(8, 8), nn.Linear(16, 8))


def test_other_dtypes_take_mlx_operations():
    x, fc = random(4, 8).astype(mx.bfloat16), nn.Linear(8, 8)
    assert not kernels.usable(x)
    assert not kernels.usable(x.astype(mx.float32), fc.weight.astype(mx.bfloat16))
    fc.set_dtype(mx.bfloat16)
    assert ops.linear(x, fc, activate=True).dtype == mx.bfloat16


def test_without_a_compiler_mlx_serves(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(kernels, "_path", lambda: tmp_path / "none.so")
    monkeypatch.setattr(kernels, "library", kernels.library.__wrapped__)
    assert not kernels.usable(mx.zeros((1, 1024, 1024)))


def test_small_arrays_do_not_start_a_compiler(
    monkeypatch: pytest.MonkeyPatch, tmp_path
):
    monkeypatch.setattr(kernels, "_path", lambda: tmp_path / "none.so")
    monkeypatch.setattr(kernels, "library", lambda: pytest.fail("compiled"))
    assert not kernels.usable(mx.zeros((1, 64, 64, 16)))


def test_memory_that_is_kept_is_given_back():
    mx.eval(mx.ones(2**20) + 1)
    assert mx.get_cache_memory() > 0
    kernels.release_memory()
    assert mx.get_cache_memory() == 0
