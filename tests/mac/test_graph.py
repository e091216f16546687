"""The graphs that a Mac's GPU gets: the encoder at every size, and a prefill."""

import re
import tempfile
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
import pytest

from benchmarks.encoder import gpu_form
from fastvlm_mlx.model import language, ops
from fastvlm_mlx.model.ffn_biases import fold_ffn_biases
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.vision import FastViTHD
from fastvlm_mlx.model.vision_config import VisionConfig
from tests.mac.graph import Graph, trace
from tests.mac.rules import faults

# The language model of FastVLM 0.5B, with two layers.
TEXT = TextConfig(
    model_type="qwen2",
    hidden_size=896,
    num_hidden_layers=2,
    intermediate_size=4864,
    num_attention_heads=14,
    num_key_value_heads=2,
    rms_norm_eps=1e-6,
    vocab_size=3000,
    max_position_embeddings=32768,
)


@pytest.fixture(scope="module")
def encoder() -> FastViTHD:
    model = FastViTHD(VisionConfig())
    model.set_dtype(mx.bfloat16)
    fold_ffn_biases(model)
    mx.eval(model.parameters())
    return model


@pytest.fixture(scope="module")
def language_model() -> nn.Module:
    model = language.build(TEXT)
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    return model


def encode_graph(model: FastViTHD, resolution: int) -> Graph:
    pixels = mx.zeros((1, resolution, resolution, 3), dtype=mx.bfloat16)
    with gpu_form():
        return trace(model._features, pixels)


def prefill_graph(model: nn.Module, *, all_rows: bool = False, length=281) -> Graph:
    def logits(embeddings: mx.array) -> mx.array:
        states = language.hidden(model, embeddings, language.make_cache(model))
        return language.head(model, states if all_rows else states[:, -1])

    embeddings = mx.zeros((1, length, TEXT.hidden_size), dtype=mx.bfloat16)
    with gpu_form():
        return trace(logits, embeddings)


@pytest.mark.parametrize("resolution", [256, 1024, 2048, 4096])
def test_an_encode_runs_by_fast_kernels(encoder, resolution):
    graph = encode_graph(encoder, resolution)
    fused = sum(kernel.fused > 1 for kernel in graph.kernels)
    print(f"{resolution} px: {fused} fused kernels, {graph.nbytes / 1e9:.2f} GB")
    assert len(graph.attentions) == 6 and fused > 50
    assert faults(graph) == []


def test_a_prefill_runs_by_fast_kernels(language_model):
    graph = prefill_graph(language_model)
    assert [a.mask for a in graph.attentions] == ["causal"] * 2
    # mlx-lm adds a bias to q, k and v, of one row each.
    assert faults(graph, TEXT.vocab_size) == []


def test_the_fused_kernels_are_those_that_mlx_makes(encoder):
    pixels = mx.zeros((1, 256, 256, 3), dtype=mx.bfloat16)
    with (
        gpu_form(),
        patch.object(mx.fast, "layer_norm", lambda x, *_: mx.sort(x)),
        patch.object(
            mx.fast, "scaled_dot_product_attention", lambda q, *_, **__: mx.sort(q)
        ),
    ):
        features = mx.compile(encoder._features)(pixels)
    with tempfile.NamedTemporaryFile("r", suffix=".dot") as file:
        mx.export_to_dot(file.name, features)
        made = re.findall(r'label ="Compiled(\w+)", shape=rectangle', file.read())
    ours = [k for k in encode_graph(encoder, 256).kernels if k.fused > 1]
    assert len(made) == len(ours) > 50


# Each rule on the fault that it exists for.


def test_a_bias_beside_its_product_is_found(encoder):
    def added(x: mx.array, bias: mx.array) -> mx.array:
        return x + bias

    with patch.object(ops, "_add_bias", added):
        found = faults(encode_graph(encoder, 256))
    assert len(found) == 47 and all("broadcasts" in line for line in found)


def test_heads_of_32_are_found(encoder):
    with patch.object(ops, "_fused_head", lambda head_dim: head_dim):
        found = faults(encode_graph(encoder, 256))
    assert found == ["attention with heads of 32"] * 6


def test_a_convolution_that_widens_is_found(encoder):
    def at_once(x: mx.array, weight: mx.array, stride: int) -> mx.array:
        pad = weight.shape[1] // 2
        return mx.conv2d(x, weight, stride, pad, groups=x.shape[-1])

    with patch.object(ops, "_depthwise", at_once):
        found = faults(encode_graph(encoder, 256))
    assert len(found) == 5 and all("grouped convolution" in line for line in found)


def test_arrays_above_1_gb_are_found(encoder):
    assert any("writes" in line for line in faults(encode_graph(encoder, 8192)))


def test_logits_of_every_row_are_found(language_model):
    graph = prefill_graph(language_model, all_rows=True)
    assert faults(graph, TEXT.vocab_size) == ["logits of 281 rows"]


def test_a_mask_that_is_an_array_is_found(language_model):
    base = language.mlx_lm_module("models.base")

    def as_array(h: mx.array, cache: object = None, **_: object) -> mx.array:
        return base.create_causal_mask(h.shape[1], 0)

    module = language.mlx_lm_module("models.qwen2")
    with patch.object(module, "create_attention_mask", as_array):
        found = faults(prefill_graph(language_model), TEXT.vocab_size)
    assert found == ["attention with a mask that is an array"] * 2
