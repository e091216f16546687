"""The encoder as a GPU runs it: biases, attention heads, 16 bits, interruptions.

All of it runs here on the CPU; `benchmarks.encoder.gpu_form` selects the form.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from benchmarks import encoder as forms
from fastvlm_mlx.model import ops, parameters
from fastvlm_mlx.model.ffn_biases import fold_ffn_biases
from fastvlm_mlx.model.vision import FinalConv, Pool
from fastvlm_mlx.model.vision_blocks import SqueezeExcite
from tests.model.test_vision import CONFIGS, SMALL, pixels
from tests.support.assert_close import assert_close
from tests.support.compiling import compiling
from tests.support.mock_model import MockModel

LIMIT = 1e-5  # of the standard deviation: the same sums in another order


@pytest.fixture(autouse=True)
def uncompiled() -> Iterator[None]:
    """`mx.compile` does nothing: on a CPU it would call g++ for each fused kernel."""
    with compiling(False):
        yield


@pytest.mark.parametrize("name", CONFIGS)
def test_folded_biases_change_nothing(name):
    config = CONFIGS[name]
    model, x = forms.encoder(config), pixels(config)
    with forms.gpu_form():
        wanted = model(x)
        mx.eval(wanted)
        fold_ffn_biases(model)
        assert_close("features", model(x), wanted, LIMIT)
    with forms.without_cpu_kernels():  # and on a CPU
        assert_close("on a CPU", model(x), wanted, LIMIT)
    ffns = [block.mlp for stage in model.stages for block in stage.blocks]
    assert not any("bias" in ffn.conv for ffn in ffns)
    fold_ffn_biases(model)  # again: nothing left to do
    with forms.gpu_form():
        assert_close("again", model(x), wanted, LIMIT)


def test_only_a_gpu_gets_folded_biases():
    weights: Any = dict(tree_flatten(MockModel().parameters()))  # type: ignore
    for on_gpu in (False, True):
        model = MockModel()
        with patch.object(parameters, "on_gpu", lambda on_gpu=on_gpu: on_gpu):
            parameters.assign(model, weights, mx.float32)
        assert model.vision_tower is not None
        conv = model.vision_tower.stages[0].blocks[0].mlp.conv
        assert ("bias" in conv) is not on_gpu


def test_quantized_ffns_keep_their_bias():
    model = forms.encoder(replace(SMALL, embed_dims=(32,) * 5, mlp_dims=(64,) * 5))
    fc1 = model.stages[0].blocks[0].mlp.fc1
    quantized: Any = fc1.to_quantized(32, 8)
    model.stages[0].blocks[0].mlp.fc1 = quantized
    fold_ffn_biases(model)
    assert "bias" in model.stages[0].blocks[0].mlp.conv
    assert "bias" not in model.stages[1].blocks[0].mlp.conv


@pytest.mark.parametrize("head_dim", [16, 32, 64, 72, 300])
def test_heads_are_padded_to_a_fused_size(head_dim):
    qkv = mx.random.normal((2, 9, 3 * 2 * head_dim))
    with forms.without_cpu_kernels():
        wanted = ops.attention(qkv, head_dim)
        mx.eval(wanted)
    asked = []
    attend = mx.fast.scaled_dot_product_attention

    def record(q: mx.array, k: mx.array, v: mx.array, *, scale: float) -> mx.array:
        asked.append({q.shape[-1], k.shape[-1], v.shape[-1]})
        return attend(q, k, v, scale=scale)

    with (
        forms.gpu_form(),
        patch.object(mx.fast, "scaled_dot_product_attention", record),
    ):
        given = ops.attention(qkv, head_dim)
    assert asked == [{64 if head_dim < 64 else head_dim}]
    assert given.shape == (2, 9, 2 * head_dim)
    assert_close("attention", given, wanted, LIMIT)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_gelu_keeps_its_tail_in_16_bits(dtype):
    x = mx.linspace(-4, 4, 4001).astype(dtype)
    exact = np.array(x.astype(mx.float32)).astype(np.float64)
    wanted = exact * 0.5 * (1 + np.vectorize(math.erf)(exact / math.sqrt(2)))
    given = np.array(ops.gelu(x).astype(mx.float32))
    assert ops.gelu(x).dtype == dtype
    error = np.abs(given - wanted) / np.maximum(np.abs(wanted), 1e-6)
    print(f"{dtype}: largest relative error {error.max():.2e}")
    # Computed in 16 bits it is 83 % in bfloat16, and 12 % in float16.
    assert error.max() <= (2**-8 if dtype == mx.bfloat16 else 2**-9)


def test_means_of_float16_do_not_overflow():
    gated = SqueezeExcite(8, 4)
    x = mx.full((1, 16, 16, 8), 300.0)  # a sum of 76,800: float16 ends at 65,504
    wanted = gated(x)
    gated.set_dtype(mx.float16)
    given = gated(x.astype(mx.float16))
    assert given.dtype == mx.float16
    assert_close(
        "gate", given.astype(mx.float32) + mx.arange(8), wanted + mx.arange(8), 2e-2
    )
    pooled = Pool(8, 16, learnt=False)(x.astype(mx.float16))
    assert pooled.dtype == mx.float16 and mx.allclose(pooled, mx.array(300.0))


@pytest.mark.parametrize("fault", [KeyboardInterrupt, ValueError])
def test_a_fault_in_the_first_trace_leaves_the_model_whole(fault):
    model, x = forms.encoder(SMALL), pixels(SMALL, batch=1)
    with forms.gpu_form():

        def interrupted(self: FinalConv, x: mx.array) -> mx.array:
            raise fault("in the trace")

        with compiling(True), patch.object(FinalConv, "__call__", interrupted):
            with pytest.raises(fault, match="in the trace"):
                model(x)
        given = model(x)
        mx.eval(given)
    with forms.plain():
        assert_close("features", given, model(x), 1e-4)
