"""The decoder as one kernel against mlx-lm's own, its linear layers as stored."""

import copy
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from fastvlm_mlx import device
from fastvlm_mlx.cpu import decoder, kernels
from fastvlm_mlx.model import language, stored_layers
from fastvlm_mlx.model.text_config import TextConfig
from tests.support.assert_close import assert_close

pytest_plugins = ["tests.support.bfloat16_forms"]

# Of the standard deviation: the order of float32 sums, and integers of 16 bits.
LIMIT, LIMIT_OF_INTEGERS = 5e-5, 5e-3
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 2,
    "intermediate_size": 192,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 50,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    if device.on_gpu() or kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each step, whether the kernel computed it."""
    made, hidden = [], decoder.hidden

    def counted(*arguments: Any) -> mx.array | None:
        out = hidden(*arguments)
        made.append(out is not None)
        return out

    monkeypatch.setattr(decoder, "hidden", counted)
    return made


def build(bits: dict[str, int], model_type: str = "qwen2", **sizes: Any) -> Any:
    """A model, its linear layers stored in `bits`: those of a name's end, or of ""."""
    mx.random.seed(0)
    model = language.build(TextConfig(model_type=model_type, **SIZES | sizes))
    flat: Any = tree_flatten(model.parameters())
    # Weights that make every part count: attention that is not even, biases, norms.
    drawn = {n: a + 0.2 * mx.random.normal(a.shape) for n, a in flat}
    model.load_weights(list(drawn.items()))
    tensors: dict[str, mx.array] = {}
    settings: dict[str, Any] = {"group_size": 64, "bits": 4}
    for path, layer in model.named_modules():
        if not isinstance(layer, nn.Linear | nn.Embedding):
            continue
        end = path.split(".")[-1]
        form, name = bits.get(end, bits[""]), f"{path}.weight"
        if form == 16:
            tensors[name] = layer.weight.astype(mx.bfloat16)
        elif form < 16:
            parts = mx.quantize(layer.weight, 32, form)
            for kind, part in zip(("weight", "scales", "biases"), parts, strict=True):
                tensors[f"{path}.{kind}"] = part
            settings[path] = {"group_size": 32, "bits": form}
    kept = stored_layers.keep_stored(model, tensors, settings)
    model.load_weights(list(kept.items()), strict=False)
    return model


def logits(model: Any, ids: mx.array, cache: Any = None) -> mx.array:
    embeddings = model.model.embed_tokens(ids)
    return language.head(model, language.hidden(model, embeddings, cache))


def answers(model: Any, lengths: tuple[int, ...], start: int = 0) -> list[mx.array]:
    """Logits of parts of one prompt, each after the cache of those before."""
    cache, out = language.make_cache(model), []
    for length in lengths:
        ids = mx.arange(start, start + length)[None] * 7 % 50
        out.append(logits(model, ids, cache))
        start += length
    return out


FORMS = [
    {"": 16},
    {"": 8},
    {"": 4},
    {"": 4, "v_proj": 8, "down_proj": 16, "up_proj": 8},
]


@pytest.mark.parametrize("bits", FORMS, ids=str)
@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_answers_are_those_of_mlx_lm(monkeypatch, steps, model_type, bits):
    model = build(bits, model_type)
    lengths = (5, 1, 70, 12, 1, 1)
    limit = LIMIT if bits == {"": 16} else LIMIT_OF_INTEGERS
    given = answers(model, lengths)
    assert steps == [True, True, False, True, True, True]
    monkeypatch.setattr(decoder, "hidden", lambda *arguments: None)
    for length, ours, theirs in zip(
        lengths, given, answers(model, lengths), strict=True
    ):
        assert_close(f"{length} tokens", ours, theirs, limit)


@pytest.mark.parametrize(
    "scaling",
    [
        {"type": "linear", "factor": 2.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ],
    ids=lambda scaling: scaling.get("type", "llama3"),
)
def test_the_rotary_embedding_is_mlx_lms(monkeypatch, steps, scaling):
    model = build({"": 16}, "llama", rope_scaling=scaling)
    given = answers(model, (40, 9, 1))
    assert all(steps)
    monkeypatch.setattr(decoder, "hidden", lambda *arguments: None)
    for ours, theirs in zip(given, answers(model, (40, 9, 1)), strict=True):
        assert_close("logits", ours, theirs, LIMIT)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("bits", FORMS[:3], ids=str)
def test_several_sequences_are_each_as_alone(steps, bits, length):
    each_as_alone(steps, build(bits), length)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("bits", FORMS[:3], ids=str)
def test_so_they_are_with_products_in_bfloat16(form, steps, bits, length):
    each_as_alone(steps, build(bits), length)


def each_as_alone(steps: list[bool], model: Any, length: int) -> None:
    before = (4, 30, 1)
    caches = [language.make_cache(model) for _ in before]
    alone = []
    for row, (cache, count) in enumerate(zip(caches, before, strict=True)):
        alone.append(answers(model, (count, length), start=row)[1])
        logits(model, mx.arange(row, row + count)[None] * 7 % 50, cache)
    ids = mx.array(
        [
            [(row + count + i) * 7 % 50 for i in range(length)]
            for row, count in enumerate(before)
        ]
    )
    joined = language.join_caches(model, caches)
    together = logits(model, ids, joined)
    assert all(steps)
    assert mx.array_equal(together, mx.concatenate(alone))
    assert [cache[1].offset for cache in caches] == [count + length for count in before]


def test_what_the_kernel_does_not_take_is_left_to_mlx_lm(steps):
    model = build({"": 16, "o_proj": 32})
    answers(model, (3, 1))
    assert not any(steps)
    steps.clear()
    model = build({"": 16})
    # No cache; quantized caches; more rows than pay; training.
    logits(model, mx.arange(3)[None])
    quantized = [cache.to_quantized(32, 8) for cache in language.make_cache(model)]
    logits(model, mx.arange(3)[None], quantized)
    answers(model, (decoder.ROWS + 1,))
    with kernels.switched_off():
        answers(model, (3, 1))
    assert not any(steps)


def test_pairs_that_lie_side_by_side_are_left_to_mlx_lm(steps):
    answers(build({"": 16}, "llama", rope_traditional=True), (3, 1))
    assert not any(steps)


def test_weights_that_change_are_seen(steps):
    model = build({"": 16})
    before = answers(model, (3, 1))
    copied = copy.deepcopy(model)
    mlp = model.layers[1].mlp
    mlp.up_proj.weight = -mlp.up_proj.weight
    changed = answers(model, (3, 1))
    assert all(steps) and not mx.allclose(changed[1], before[1], atol=1e-2)
    for ours, theirs in zip(answers(copied, (3, 1)), before, strict=True):
        assert mx.array_equal(ours, theirs)
    steps.clear()
    mlp.up_proj.weight = mlp.up_proj.weight.astype(mx.float32)
    for ours, theirs in zip(answers(model, (3, 1)), changed, strict=True):
        assert_close("logits", ours, theirs, LIMIT)
    assert not any(steps)


def test_a_cache_goes_on_after_it_was_trimmed(steps):
    model = build({"": 16})
    cache = language.make_cache(model)
    logits(model, mx.arange(300)[None] % 50, cache)
    wanted = logits(model, mx.array([[7]]), cache)
    for layer in cache:
        layer.trim(20)
    logits(model, mx.arange(281, 300)[None] % 50, cache)
    logits(model, mx.array([[8]]), cache)
    for layer in cache:
        layer.trim(2)
    logits(model, mx.arange(299, 300)[None] % 50, cache)
    assert_close("logits", logits(model, mx.array([[7]]), cache), wanted, LIMIT)
    assert steps[2:].count(False) == 0
