"""Each operation of the MIL evaluator against a plain definition."""

import math

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.convert.coreml import mil_rounding
from fastvlm_mlx.convert.coreml.mil_evaluator import Ranges, evaluate
from fastvlm_mlx.convert.coreml.mil_operations import OPERATIONS
from fastvlm_mlx.convert.coreml.mil_rounding import no_rounding, round_to_float16
from fastvlm_mlx.convert.coreml.mlpackage import Function, Operation, Value
from fastvlm_mlx.errors import CheckpointError, OptionError

RANDOM = np.random.default_rng(0)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * RANDOM.standard_normal(shape)).astype(np.float32)


def run(name: str, step=no_rounding, **inputs) -> np.ndarray:
    return OPERATIONS[name](inputs, step)


def mlx_conv(x: np.ndarray, weight: np.ndarray, stride: int, pad: int, groups: int):
    out = mx.conv2d(
        mx.array(x.transpose(0, 2, 3, 1)),
        mx.array(weight.transpose(0, 2, 3, 1)),
        stride=stride,
        padding=pad,
        groups=groups,
    )
    return np.array(out).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("out", "inputs", "kernel", "stride", "groups"),
    [(6, 3, 3, 2, 1), (8, 8, 1, 1, 1), (5, 5, 7, 1, 5), (10, 5, 7, 2, 5)],
)
def test_conv(out: int, inputs: int, kernel: int, stride: int, groups: int):
    x, bias = normal(1, inputs, 12, 14), normal(out)
    weight = normal(out, inputs // groups, kernel, kernel)
    pad = kernel // 2
    given = run(
        "conv",
        x=x,
        weight=weight,
        bias=bias,
        strides=[stride] * 2,
        pad_type="custom",
        pad=[pad] * 4,
        groups=groups,
    )
    wanted = mlx_conv(x, weight, stride, pad, groups) + bias[:, None, None]
    np.testing.assert_allclose(given, wanted, atol=2e-5)


def test_conv_pads_as_asked():
    x, weight = normal(1, 2, 8, 8), normal(4, 2, 3, 3)
    valid = run("conv", x=x, weight=weight)
    np.testing.assert_allclose(valid, mlx_conv(x, weight, 1, 0, 1), atol=1e-5)
    same = run("conv", x=x, weight=weight, pad_type="same")
    np.testing.assert_allclose(same, mlx_conv(x, weight, 1, 1, 1), atol=1e-5)
    with pytest.raises(NotImplementedError):
        run("conv", x=x, weight=weight, dilations=(2, 2))


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("same", 0, 1), ("same_lower", 1, 0)]
)
def test_an_odd_padding_has_its_extra_on_the_side_asked_for(kind, low, high):
    x, weight = normal(1, 3, 6, 7), normal(4, 3, 2, 2)
    padded = np.pad(x, [(0, 0), (0, 0), (low, high), (low, high)])
    given = run("conv", x=x, weight=weight, pad_type=kind)
    np.testing.assert_allclose(given, mlx_conv(padded, weight, 1, 0, 1), atol=1e-5)
    custom = [low, high, low, high]
    also = run("conv", x=x, weight=weight, pad_type="custom", pad=custom)
    np.testing.assert_array_equal(given, also)


def test_normalizations():
    x, gamma, beta = normal(1, 6, 4, 4, scale=3), normal(6), normal(6)
    given = run("layer_norm", x=x, axes=[1], epsilon=1e-5, gamma=gamma, beta=beta)
    tokens = mx.array(x.transpose(0, 2, 3, 1))
    wanted = mx.fast.layer_norm(tokens, mx.array(gamma), mx.array(beta), 1e-5)
    np.testing.assert_allclose(given, np.array(wanted).transpose(0, 3, 1, 2), atol=1e-5)
    variance = np.abs(normal(6)) + 0.1
    given = run(
        "batch_norm", x=x, mean=beta, variance=variance, gamma=gamma, epsilon=1e-3
    )
    wanted = (x - beta[:, None, None]) / np.sqrt(variance + 1e-3)[:, None, None]
    np.testing.assert_allclose(given, wanted * gamma[:, None, None], atol=1e-5)


def test_the_epsilon_that_mil_takes_if_none_is_given():
    x = normal(1, 6, 2, 2, scale=3e-3)  # of a variance near the epsilon, 1e-5
    given = run("layer_norm", x=x, axes=[1])
    centred = x - x.mean(1, keepdims=True)
    variance = (centred**2).mean(1, keepdims=True)
    wanted = centred / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    assert np.abs(wanted).max() > 0.5


def test_an_offset_of_blocks():
    data = RANDOM.integers(-9, 9, (2, 4)).astype(np.int8)
    scale = np.array([[0.5, 2], [1, 3]], np.float32)
    offset = np.array([[1, 2], [3, 4]], np.int8)
    given = run(
        "constexpr_blockwise_shift_scale", data=data, scale=scale, offset=offset
    )
    wide = np.repeat(scale, 2, 1)
    wanted = (data.astype(np.float32) - np.repeat(offset, 2, 1)) * wide
    np.testing.assert_array_equal(given, wanted)
    given = run("constexpr_blockwise_shift_scale", data=data, scale=scale)
    np.testing.assert_array_equal(given, data * wide)


def test_attention_forms_agree():
    q, k, v = (normal(1, 8, 1, 5) for _ in range(3))
    weights = run("softmax", x=np.einsum("bchq,bchk->bkhq", q, k), axis=1)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-6)
    keys = k.transpose(0, 3, 2, 1)
    equation = "nchw,nwhu->nchu"
    logits = run("einsum", values=[keys, q], equation=equation)
    np.testing.assert_allclose(logits, np.einsum("bchq,bchk->bkhq", q, k), atol=1e-5)
    q4, k4 = q.reshape(1, 1, 8, 5), k.reshape(1, 1, 8, 5)
    batched = run("matmul", x=q4, y=k4, transpose_x=True)
    np.testing.assert_allclose(batched[0, 0], logits[0, :, 0].T, atol=1e-5)


def test_pooling_and_means():
    x = normal(1, 3, 8, 8)
    given = run("avg_pool", x=x, kernel_sizes=[4, 4], strides=[4, 4])
    wanted = x.reshape(1, 3, 2, 4, 2, 4).mean((3, 5))
    np.testing.assert_allclose(given, wanted, atol=1e-6)
    given = run("reduce_mean", x=x, axes=[2, 3], keep_dims=True)
    np.testing.assert_allclose(given, x.mean((2, 3), keepdims=True), atol=1e-6)
    given = run("reduce_mean", x=x, axes=[2, 3])
    assert given.shape == (1, 3)  # as MIL does unless it is asked to keep them
    np.testing.assert_allclose(given, x.mean((2, 3)), atol=1e-6)


def test_moves():
    x = normal(1, 6, 2, 2)
    parts = OPERATIONS["split"]({"x": x, "num_splits": 3, "axis": 1}, no_rounding)
    np.testing.assert_array_equal(run("concat", values=parts, axis=1), x)
    sizes = OPERATIONS["split"]({"x": x, "split_sizes": [1, 5], "axis": 1}, no_rounding)
    assert [part.shape[1] for part in sizes] == [1, 5]
    given = run("transpose", x=run("reshape", x=x, shape=[1, 6, 4]), perm=[0, 2, 1])
    np.testing.assert_array_equal(given, x.reshape(1, 6, 4).swapaxes(1, 2))
    np.testing.assert_array_equal(run("squeeze", x=x[:, :1], axes=[1]), x[:, 0])


def test_arithmetic():
    x, y = normal(2, 3), np.abs(normal(2, 3)) + 1
    for name, wanted in (
        ("add", x + y),
        ("sub", x - y),
        ("mul", x * y),
        ("real_div", x / y),
        ("pow", x**2),
    ):
        given = run(name, x=x, y=np.float32(2) if name == "pow" else y)
        np.testing.assert_allclose(given, wanted, rtol=1e-6)
    np.testing.assert_allclose(run("sqrt", x=y), np.sqrt(y))
    np.testing.assert_array_equal(run("relu", x=x), np.where(x > 0, x, 0))
    np.testing.assert_allclose(run("sigmoid", x=x), 1 / (1 + np.exp(-x)), rtol=1e-6)
    weight, bias = normal(4, 3), normal(4)
    given = run("linear", x=x, weight=weight, bias=bias)
    np.testing.assert_allclose(given, x @ weight.T + bias, rtol=1e-6)


def test_gelu_is_exact():
    x = np.linspace(-6, 6, 4001, dtype=np.float32)
    wanted = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(run("gelu", x=x), wanted, atol=1e-6)
    half = x.astype(np.float16)
    wanted = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in half.tolist()]
    table = mil_rounding.gelu_float16(half, strict=False)
    np.testing.assert_array_equal(
        table, np.array(wanted, np.float16).astype(np.float32)
    )
    strict = mil_rounding.gelu_float16(half, strict=True)
    np.testing.assert_allclose(strict, wanted, atol=5e-3)
    with pytest.raises(NotImplementedError, match="SIGMOID"):
        run("gelu", x=x, mode="SIGMOID_APPROXIMATION")


def test_strict_rounding_shows_the_overflow_that_the_prescale_cures():
    x = normal(1, 768, 2, 2, scale=100)
    wanted = run("layer_norm", x=x, axes=[1], epsilon=1e-5)
    lost = run(
        "layer_norm",
        x=round_to_float16(x),
        axes=[1],
        epsilon=1e-5,
        step=round_to_float16,
    )
    assert np.abs(lost).max() < 0.1  # silently nothing, not even NaN
    cured = run(
        "layer_norm",
        x=round_to_float16(x / 16),
        axes=[1],
        epsilon=6e-8,
        step=round_to_float16,
    )
    np.testing.assert_allclose(cured, wanted, atol=0.02)


def value(name: str, shape: tuple[int, ...], dtype: str = "float16") -> Value:
    return Value(name, dtype, shape)


def doubling(dtype: str, kind: str = "add") -> Function:
    x = value("x", (4,), dtype)
    double = Operation(kind, {"x": ["x"], "y": ["x"]}, [value("y", (4,), dtype)])
    return Function([x], [double], ["y"])


def test_modes_round_where_they_say():
    x = np.array([1.0001, 40000, -3, 0], np.float32)
    assert evaluate(doubling("float16"), {"x": x}, mode="exact")["y"][0] == 2 * x[0]
    ranges = Ranges()
    typed = evaluate(doubling("float16"), {"x": x}, ranges=ranges)["y"]
    assert typed[0] == 2.0 and np.isinf(typed[1])
    assert ranges.largest == {"y": 80000.0}  # seen before it was rounded away
    assert ranges.squares == {}
    assert evaluate(doubling("float32"), {"x": x})["y"][1] == 80000


def test_gelu_is_rounded_in_the_modes_that_say_so():
    x = np.array([1.0001, -0.7003, 3.14159, 0], np.float32)
    half = x.astype(np.float16)
    gelu = Operation("gelu", {"x": ["x"]}, [value("y", (4,))])
    function = Function([value("x", (4,))], [gelu], ["y"])
    exact = evaluate(function, {"x": x}, mode="exact")["y"]
    np.testing.assert_array_equal(exact, mil_rounding.gelu(x))
    assert (exact != round_to_float16(exact)).any()
    for mode in ("typed", "strict"):
        given = evaluate(function, {"x": x}, mode=mode)["y"]
        wanted = mil_rounding.gelu_float16(half, strict=mode == "strict")
        np.testing.assert_array_equal(given, wanted)


def test_refusals():
    x = np.zeros(4, np.float32)
    with pytest.raises(CheckpointError, match="^operation y is a topk, which cannot"):
        evaluate(doubling("float16", "topk"), {"x": x})
    with pytest.raises(OptionError, match=r"^input x is \(3,\), not \(4,\)$"):
        evaluate(doubling("float16"), {"x": x[:3]})
    with pytest.raises(OptionError, match="^mode 'loose': unknown; use exact, typed"):
        evaluate(doubling("float16"), {"x": x}, mode="loose")
