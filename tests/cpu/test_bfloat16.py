"""Products in bfloat16: their numbers and their instructions."""

import re
import shutil
import subprocess

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from fastvlm_mlx.cpu import bfloat16, kernels
from fastvlm_mlx.model import ops
from fastvlm_mlx.model.vision_blocks import DepthwiseConv
from tests.support.assert_close import assert_close
from tests.support.kept_kernels import kept_assembly

LIMIT = 1e-5  # of the standard deviation: the order of float32 sums


pytest_plugins = ["tests.support.bfloat16_forms"]


def normal(*shape: int) -> mx.array:
    return mx.random.normal(shape)


def rounded(x: mx.array) -> mx.array:
    return x.astype(mx.bfloat16).astype(mx.float32)


@pytest.mark.parametrize("rows", [17, 20, 29, 64, 65, 72, 240, 243, 500])
@pytest.mark.parametrize(("dim", "out_dim"), [(64, 1), (576, 70), (1088, 96)])
def test_sums_are_those_of_the_rounded_numbers(form, rows, dim, out_dim):
    mx.random.seed(rows)
    x, weight = normal(rows, dim), normal(out_dim, dim).astype(mx.bfloat16)
    wanted = rounded(x) @ weight.astype(mx.float32).T
    assert_close(form, kernels.linear_bfloat16(x, weight, None), wanted, LIMIT)
    bias = normal(out_dim)
    given = kernels.linear_bfloat16(x[None], weight, bias)
    assert_close(form, given[0], wanted + bias, LIMIT)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("rows", [17, 40, 64, 77])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (4, 64), (8, 64)])
def test_quantized_weights_are_rounded_too(form, bits, group_size, rows, dtype):
    x, bias = normal(rows, 576), normal(70)
    parts = mx.quantize(normal(70, 576).astype(dtype), group_size, bits)
    ones = mx.ones(parts[1].shape)
    numbers = mx.dequantize(parts[0], ones, 0 * ones, group_size=group_size, bits=bits)
    scales, biases = (
        np.array(part.astype(mx.float32), np.float64).repeat(group_size, axis=1)
        for part in parts[1:]
    )
    # The kernel multiplies and adds at once.
    weight = mx.array((np.array(numbers) * scales + biases).astype(np.float32))
    wanted = rounded(x) @ rounded(weight).T + bias
    given = kernels.linear_quantized(x, *parts, bias, group_size=group_size, bits=bits)
    assert_close(form, given, wanted, LIMIT)


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (300, ((0, 65), (5, 93), (230, 300))),
        (64, ((0, 17), (5, 33), (40, 64))),
        (16, ((0, 1), (3, 5), (2, 8), (1, 16))),
    ],
)
def test_a_row_does_not_depend_on_the_others(form, rows, parts):
    x, weight = normal(rows, 640), normal(83, 640).astype(mx.bfloat16)
    together = kernels.linear_bfloat16(x, weight, None)
    for first, last in parts:
        alone = kernels.linear_bfloat16(x[first:last], weight, None)
        assert mx.array_equal(alone, together[first:last])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_does_not_depend_on_the_others_with_quantized_weights(form, bits):
    x, parts = normal(64, 640), mx.quantize(normal(83, 640), 64, bits)

    def product(x: mx.array) -> mx.array:
        return kernels.linear_quantized(x, *parts, None, group_size=64, bits=bits)

    for rows, counts in ((16, (1, 2, 5)), (64, (17, 33, 63))):
        together = product(x[:rows])
        for count in counts:
            assert mx.array_equal(product(x[:count]), together[:count])


def test_numbers_are_rounded_as_by_mlx(form):
    values = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 3.4e38, 1e-30]
    x = mx.zeros((len(values) + 14, 64))
    x[: len(values), 5] = mx.array(values)
    x[6:8, 5] = mx.array([float("inf"), float("nan")])
    weight = mx.zeros((40, 64), mx.bfloat16)
    weight[:, 5] = 1
    given = np.array(kernels.linear_bfloat16(x, weight, None)[:, 39])
    wanted = np.array(rounded(x)[:, 5])
    assert np.array_equal(given[:7], wanted[:7])
    assert np.isnan(given[7])


def test_rows_of_a_token_count_with_16_bits(form):
    x, weight = normal(16, 640), normal(83, 640).astype(mx.bfloat16)
    wanted = x @ weight.astype(mx.float32).T
    for rows in (1, 2, 5, 6, 16):
        given = kernels.linear_bfloat16(x[:rows], weight, None)
        assert_close(form, given, wanted[:rows], 2**-15)


def test_float32_layers_do_not_change(library, form):
    x, weight, bias = normal(40, 96), normal(64, 96), normal(64)
    given = kernels.linear(x, weight, bias, activate=True)
    bfloat16.use(library, "off")
    assert mx.array_equal(given, kernels.linear(x, weight, bias, activate=True))


@pytest.mark.parametrize("length", [1, 5, 16, 61, 256, 300])
@pytest.mark.parametrize("head_dim", [32, 64, 24])
def test_attention(form, library, length, head_dim):
    mx.random.seed(length)
    qkv = 2 * normal(2, length, 3 * 3 * head_dim)
    given = ops.attention(qkv, head_dim, rounded=True)
    q, k, v = rounded(qkv).reshape(2, length, 3, 3, head_dim).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) * head_dim**-0.5
    shares = rounded(mx.softmax(scores, axis=-1))
    wanted = (shares @ v).transpose(0, 2, 1, 3).reshape(given.shape)
    # A share between two numbers goes either way.
    assert_close(form, given, wanted, 5e-3)
    exact = ops.attention(qkv, head_dim)
    assert length == 1 or not mx.array_equal(exact, given)
    bfloat16.use(library, "off")
    assert mx.array_equal(ops.attention(qkv, head_dim, rounded=True), exact)


@pytest.mark.parametrize("shape", [(3, 37, 24), (1, 5, 7), (2, 300, 130)])
@pytest.mark.parametrize("activate", [False, True])
def test_a_layer_of_the_encoder(form, shape, activate):
    x, fc = normal(*shape), nn.Linear(shape[-1], 50)
    fc.weight = fc.weight.astype(mx.bfloat16)
    wanted = rounded(x) @ fc.weight.astype(mx.float32).T + fc.bias
    wanted = nn.gelu(wanted) if activate else wanted
    assert_close(form, ops.linear(x, fc, activate=activate), wanted, LIMIT)


@pytest.mark.parametrize(
    ("shape", "hidden_dim"),
    [((1, 16, 16, 32), 128), ((2, 5, 7, 12), 20), ((1, 33, 20, 9), 7),
     ((1, 3, 5, 300), 3600)],
)  # fmt: skip
def test_an_ffn_of_the_encoder(form, shape, hidden_dim):
    dim = shape[-1]
    mx.random.seed(dim)
    x, conv = normal(*shape), DepthwiseConv(dim, dim, 7)
    conv.weight, conv.bias = normal(dim, 7, 7, 1) / 7, normal(dim)
    fc1, fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)
    for fc in (fc1, fc2):
        fc.weight = fc.weight.astype(mx.bfloat16)
    mixed = mx.conv2d(x, conv.weight, padding=3, groups=dim) + conv.bias
    hidden = nn.gelu(rounded(mixed) @ fc1.weight.astype(mx.float32).T + fc1.bias)
    wanted = x + rounded(hidden) @ fc2.weight.astype(mx.float32).T + fc2.bias
    # Numbers between two of bfloat16 are rounded either way.
    assert_close(form, ops.conv_ffn(x, conv, fc1, fc2), wanted, 1e-3)


@pytest.mark.parametrize(
    ("name", "flags", "most"),
    [
        # 6 rows, each rounded twice, by 4 of the weight; 12 rows by 2 vectors.
        ("stored_linear", ["-march=cooperlake"], 48),
        ("decoder", ["-march=cooperlake"], 48),
        ("encoder_bfloat16", ["-march=x86-64-v4", "-mavx512bf16"], 24),
    ],
)
def test_the_instruction_is_used_and_its_sums_stay_in_registers(
    pytestconfig, tmp_path, name, flags, most
):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    source = next(s for s in kernels.SOURCES if s.name == f"{name}.cpp")
    options = [
        flag for flag in kernels.FLAGS if flag not in ("-march=native", "-shared")
    ]
    command = [compiler, *options, *flags, "-S"]
    if subprocess.run(
        [*command, "-x", "c++", "/dev/null", "-o", "/dev/null"],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("this g++ knows no AVX512-BF16")
    out = kept_assembly(pytestconfig, command, source, tmp_path)
    loops = re.split(r"\n\S+:", out)
    used = [loop for loop in loops if "vdpbf16ps" in loop]
    assert max(loop.count("vdpbf16ps") for loop in used) == most
    for loop in used:
        inside = loop[: loop.rindex("vdpbf16ps")]
        assert not re.search(r"vmov\w+\s+%zmm\d+, -?\d*\(", inside)
