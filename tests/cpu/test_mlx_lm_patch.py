"""Prefill through our kernels against mlx-lm's own functions."""

import subprocess
import sys
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx.cpu import kernels, mlx_lm_patch
from fastvlm_mlx.model import language
from fastvlm_mlx.model.text_config import TextConfig
from tests.support.assert_close import assert_close

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 50,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


def logits(model: Any, lengths: tuple[int, ...]) -> list[mx.array]:
    """Logits of parts of one prompt, each after the cache of those before."""
    cache = language.make_cache(model)
    ids = mx.arange(sum(lengths))[None] % 50
    out, start = [], 0
    for length in lengths:
        out.append(model(ids[:, start : start + length], cache))
        mx.eval(out[-1])
        start += length
    return out


@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_prefill_cached_prefill_and_decode(model_type, monkeypatch):
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    model = language.build(TextConfig(model_type=model_type, **SIZES))
    lengths = (33, 7, 1)
    given = logits(model, lengths)
    monkeypatch.setattr(kernels, "usable", lambda *arrays: False)
    for name, ours, theirs in zip(lengths, given, logits(model, lengths), strict=True):
        assert_close(f"{name} tokens", ours, theirs, 1e-4)


def test_quicken_twice_is_once():
    language.build(TextConfig(model_type="qwen2", **SIZES))
    module = language.mlx_lm_module("models.qwen2")
    function = module.swiglu
    mlx_lm_patch.use_cpu_kernels(module)
    assert module.swiglu is function


@pytest.mark.slow  # importing mlx-lm whole takes seconds
def test_a_users_own_mlx_lm_is_left_alone():
    code = (
        "from fastvlm_mlx.model import language;"
        "from fastvlm_mlx.model.text_config import TextConfig;"
        "from tests.cpu.test_mlx_lm_patch import SIZES;"
        "language.build(TextConfig(model_type='qwen2', **SIZES));"
        "import mlx_lm.models.qwen2 as theirs;"
        "assert 'mlx_lm_patch' not in theirs.swiglu.__module__, theirs.swiglu"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
