"""Agreement of a quantized model with its original, and its memory."""

from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.convert import quantization_check, to_mlx
from fastvlm_mlx.convert.fold_checkpoint import fold_checkpoint
from fastvlm_mlx.convert.quantization_check import CONVERSATIONS
from fastvlm_mlx.convert.source.checkpoint import open_checkpoint
from fastvlm_mlx.device import on_cpu
from fastvlm_mlx.processing.tokenizer import Tokenizer
from tests.support import checkpoints


@pytest.fixture
def parts(reference: Path):
    with open_checkpoint(reference / "llava-mini") as read:
        yield *fold_checkpoint(read), Tokenizer(read.folder)


def test_a_model_agrees_with_itself(parts):
    tensors, config, tokenizer = parts
    found = quantization_check.measure_agreement(
        tensors, config, dict(tensors), config, tokenizer
    )
    assert found is not None
    assert found.top1 == 1.0
    assert abs(found.kl) < 1e-6
    places = [len(tokenizer.encode(answer)) + 1 for _, answer in CONVERSATIONS]
    assert found.positions == 2 * sum(places)


def test_garbage_shows(parts):
    tensors, config, tokenizer = parts
    broken = dict(tensors)
    name = "language_model.model.layers.0.mlp.down_proj.weight"
    broken[name] = mx.random.normal(broken[name].shape, key=mx.random.key(0))
    found = quantization_check.measure_agreement(
        tensors, config, broken, config, tokenizer
    )
    assert found is not None
    assert found.top1 < 0.7
    assert found.kl > 0.5


def test_more_bits_agree_better(reference: Path, tmp_path: Path):
    four, eight = (
        to_mlx.convert(
            reference / "llava-mini", tmp_path / str(bits), q_bits=bits, q_group_size=32
        ).agreement
        for bits in (4, 8)
    )
    assert four is not None and eight is not None
    assert eight.top1 > four.top1
    assert eight.kl < four.kl / 10


def test_a_language_model_without_an_encoder_is_not_compared(parts):
    tensors, config, tokenizer = parts
    blind = to_mlx.replace(config, vision=None)
    assert (
        quantization_check.measure_agreement(tensors, blind, tensors, blind, tokenizer)
        is None
    )


@pytest.mark.skipif(not on_cpu(), reason="only a CPU compares in float32")
def test_the_models_are_never_in_memory_whole(tmp_path: Path):
    spec = checkpoints.Spec(
        hidden=256, heads=4, layers=16, intermediate=1024, dtype="bfloat16"
    )
    checkpoints.write(tmp_path / "source", spec)
    size = (tmp_path / "source" / "model.safetensors").stat().st_size
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    to_mlx.convert(tmp_path / "source", tmp_path / "out", q_bits=4)
    # One float32 copy of the language model alone would be twice the checkpoint.
    assert mx.get_peak_memory() - before < 1.5 * size
