"""The paper's other encoders: published sizes, FLOPs, and that they run."""

import dataclasses

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from benchmarks.paper.encoders import (
    ENCODERS,
    LANGUAGE_MODELS,
    ConvNeXt,
    ConvNeXtConfig,
    ViT,
    ViTConfig,
)
from fastvlm_mlx.app.bench import flops
from fastvlm_mlx.model import language

# Where it was published: the resolution of the position table.
RESOLUTION = {"ViT-L/14": 224, "SigLIP-SO400M": 384, "DINOv2 ViT-L/14": 518}


def parameters(module) -> int:
    flat: list[tuple[str, mx.array]] = tree_flatten(module.parameters())  # type: ignore
    return sum(array.size for _, array in flat)


@pytest.mark.parametrize("name", ENCODERS)
def test_parameters(name):
    encoder = ENCODERS[name]
    found = parameters(encoder.build(RESOLUTION.get(name, 256))) / 1e6 + encoder.head
    assert found == pytest.approx(encoder.published, rel=0.005)


# Multiply-adds in 10^9, from timm's results tables; they count what we count.
@pytest.mark.parametrize(
    ("name", "resolution", "gmacs"),
    [
        ("ViT-L/14", 224, 81.1),
        ("ViT-L/14", 336, 191.1),
        ("DINOv2 ViT-L/14", 518, 507.1),
        ("ConvNeXt-L", 224, 34.4),
        ("ConvNeXt-XXL", 256, 198.1),
    ],
)
def test_work(name, resolution, gmacs):
    found = ENCODERS[name].work(resolution, 2).flops / 2e9
    assert found == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize(
    ("name", "resolution", "tokens"),
    [
        ("FastViTHD", 1024, 256),
        ("FastViT (MCi2)", 768, 576),
        ("ViT-L/14", 336, 576),
        ("DINOv2 ViT-L/14", 518, 1369),
        ("SigLIP-SO400M", 384, 729),
        ("ConvNeXt-L", 320, 100),
        ("ConvNeXt-XXL", 512, 256),
    ],
)
def test_tokens_of_the_paper(name, resolution, tokens):
    assert ENCODERS[name].tokens(resolution) == tokens


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: ViT(ViTConfig(16, 2, 2, 32), 28), (2, 5, 16)),
        (lambda: ViT(ViTConfig(16, 2, 2, 32, class_token=False), 28), (2, 4, 16)),
        (lambda: ViT(ViTConfig(16, 2, 2, 32, norm_pre=False), 28), (2, 5, 16)),
        (lambda: ConvNeXt(ConvNeXtConfig((1, 1), (8, 16))), (2, 9, 16)),
    ],
)
def test_shapes(build, shape):
    size = 28 if len(shape) and shape[1] < 9 else 24
    assert build()(mx.zeros((2, size, size, 3))).shape == shape


def test_a_vision_transformer_against_its_definition():
    """Attention and MLP of one block, written out for one head."""
    mx.random.seed(0)
    model = ViT(ViTConfig(8, 1, 1, 16, class_token=False), 28)
    block = model.blocks[0]
    x = mx.random.normal((1, 4, 8))
    y = block.norm1(x)
    q, k, v = mx.split(block.qkv(y), 3, axis=-1)
    scores = mx.softmax(q @ k.transpose(0, 2, 1) / 8**0.5, axis=-1)
    y = x + block.proj(scores @ v)
    h = block.fc1(block.norm2(y))
    y = y + block.fc2(h * (1 + mx.erf(h / 2**0.5)) / 2)
    difference = float(mx.abs(block(x) - y).max())
    print("largest difference", difference)
    assert difference < 1e-5


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Qwen2-0.5B", 0.494),
        ("Qwen2-1.5B", 1.544),
        ("Qwen2-7B", 7.616),
        ("Vicuna-7B", 6.738),
        ("Qwen1.5-0.5B", 0.464),
        ("MobileLLaMA-1.4B", 1.364),
        ("Llama-3-8B", 8.030),
    ],
)
def test_language_models(name, billions):
    config = LANGUAGE_MODELS[name]
    found = parameters(language.build(config))
    assert found / 1e9 == pytest.approx(billions, rel=0.001)
    # Decoding reads them all, but for the table of embeddings where it is not tied.
    tied = config.tie_word_embeddings
    table = 0 if tied else config.vocab_size * config.hidden_size
    step = flops.prefill(config, 1, 1)
    assert step.bytes == pytest.approx(found - table, rel=0.01)


def test_nothing_is_changed_by_accident():
    for encoder in ENCODERS.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            encoder.published = 1  # type: ignore
