"""The language model in Apple's Core AI runtime: caches as states, token by token."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from fastvlm_mlx.convert import llava_files
from fastvlm_mlx.convert.coreai import asset, language
from fastvlm_mlx.convert.coreai.decoder import (
    EMBEDS,
    KEYS,
    LOGITS,
    POSITIONS,
    VALUES,
    cache_shape,
    is_quantized,
    rounded,
)
from fastvlm_mlx.convert.encoder_reference import psnr
from fastvlm_mlx.convert.to_coreai import embedding_table, language_weights
from fastvlm_mlx.coreai_runtime import CoreAIModel
from fastvlm_mlx.errors import CheckpointError
from tests.support.coreai import needs_coreai

pytestmark = needs_coreai

CONTEXT = 64


def written(source: Path, folder: Path, precision: str, bits: int | None) -> Any:
    """An asset of the language model, its config, weights and embeddings."""
    _, config, tensors = llava_files.read_model(source, "coreai")
    assert config.text is not None
    weight = language_weights(tensors, config, 0)
    path = folder / f"{precision}-{bits}.aimodel"
    program = language.decoder_of(config.text, weight, CONTEXT, precision, bits)
    values = {"converter": "fastvlm-mlx test", "source": "a test"}
    values |= language.asset_values(CONTEXT, bits)
    asset.write(program, path, "a test", values)
    table = embedding_table(tensors, config, 0, "float32")
    return asset.read(path), config.text, weight, table


@pytest.mark.parametrize("layout", ["llava-mini", "hf-mini"])
@pytest.mark.parametrize(
    ("precision", "bits", "least"),
    [("float32", None, 100), ("float16", None, 38), ("float16", 4, 38)],
)
def test_every_step_agrees_with_mlx(
    layout: str,
    precision: str,
    bits: int | None,
    least: float,
    reference: Path,
    tmp_path: Path,
):
    found = written(reference / layout, tmp_path, precision, bits)
    verdict = language.judge_language(*found)
    assert verdict.psnr >= least and verdict.passed, verdict


def test_pytorchs_logits_and_tokens(reference: Path, tmp_path: Path):
    """The goldens' prompt in parts, then greedy tokens one by one."""
    from coreai.runtime import NDArray

    stored, config, _, table = written(
        reference / "llava-mini", tmp_path, "float32", None
    )
    with np.load(reference / "llava-mini" / "golden.npz") as file:
        golden = dict(file)
    before, after = (golden[f"ids_{side}"][0] for side in ("before", "after"))
    prompt = np.concatenate([table[before], golden["embeds"][0], table[after]])[None]
    count = prompt.shape[1]
    with CoreAIModel(stored.path) as model:
        for cuts in ([0, count], [0, 5, count - 1, count]):
            state = {
                name: NDArray(np.zeros(cache_shape(config, CONTEXT), np.float32))
                for name in (KEYS, VALUES)
            }

            def logits(embeds: np.ndarray, end: int, state=state) -> np.ndarray:
                positions = np.arange(end, dtype=np.int32)[None]
                given = {EMBEDS: embeds, POSITIONS: positions}
                return model.run("main", given, state)[LOGITS]

            parts = [
                logits(prompt[:, begin:end], end)
                for begin, end in zip(cuts, cuts[1:], strict=False)
            ]
            assert psnr(golden["logits_all"], np.concatenate(parts, axis=1)) >= 100
        tokens = [int(parts[-1][0, -1].argmax())]
        for end in range(count + 1, count + len(golden["greedy"])):
            step = logits(table[tokens[-1:]][None], end)
            tokens.append(int(step[0, -1].argmax()))
    assert tokens == golden["greedy"].tolist()


def test_the_states_are_what_apples_runner_calls(reference: Path, tmp_path: Path):
    stored, *_ = written(reference / "llava-mini", tmp_path, "float16", None)
    with CoreAIModel(stored.path) as model:
        described = model.describe("main")
        assert list(described.input_names) == [EMBEDS, POSITIONS]
        assert list(described.state_names) == [KEYS, VALUES]
        assert list(described.output_names) == [LOGITS]
        assert described.output_descriptor(LOGITS).dtype == "float16"


def test_another_model_is_found_out(reference: Path, tmp_path: Path):
    stored, config, _, table = written(
        reference / "llava-mini", tmp_path, "float16", None
    )
    _, other, tensors = llava_files.read_model(reference / "hf-mini", "coreai")
    weight = language_weights(tensors, other, 0)
    assert not language.judge_language(stored, config, weight, table).passed
    foreign = asset.Asset(stored.path, stored.bytes, {})
    with pytest.raises(CheckpointError, match="gives no context_length$"):
        language.judge_language(foreign, config, weight, table)


def test_which_weights_are_quantized(reference: Path):
    _, config, _ = llava_files.read_model(reference / "llava-mini", "coreai")
    assert config.text is not None
    wide, odd = np.ones((4, 64), np.float32), np.ones((4, 65), np.float32)
    name = "model.layers.0.mlp.up_proj.weight"
    assert is_quantized(config.text, name, wide)
    assert not is_quantized(config.text, name, odd)
    assert not is_quantized(config.text, "model.layers.0.self_attn.q_proj.bias", wide)
    random = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    for bits, least in ((8, 40), (4, 18)):
        assert psnr(random, rounded(random, bits)) > least


def test_what_the_public_interface_lacks():
    """As docs/coreai.md says; once this fails, `unpublished.py` may go."""
    from coreai.authoring import HandleType, Module, TensorType, Value, graph

    def main(x):
        return x

    value = Annotated[Value, HandleType(TensorType((4,), np.float32))]
    main.__annotations__ = {"x": value, "return": value}
    with pytest.raises(TypeError, match="TensorSpec or ImageSpec"):
        with Module.create():
            graph(main)
