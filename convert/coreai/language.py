"""Judges the language model's asset token by token, beside MLX in float32.

Where its weights are quantized, MLX computes with the same rounded weights: what is
judged is the program. What quantization costs is the user's choice, as for MLX.
"""

import time
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from fastvlm_mlx.convert.coreai.asset import Asset
from fastvlm_mlx.convert.coreai.decoder import (
    EMBEDS,
    KEYS,
    LOGITS,
    POSITIONS,
    VALUES,
    Decoder,
    Weight,
    cache_shape,
    is_quantized,
    rounded,
)
from fastvlm_mlx.convert.coreai.verify import Verdict, asset_errors
from fastvlm_mlx.convert.encoder_reference import REQUIRED_PSNR, psnr
from fastvlm_mlx.coreai_runtime import CoreAIModel
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model import language
from fastvlm_mlx.model.text_config import TextConfig

# A prompt, and tokens after it one by one.
PROMPT, STEPS = 16, 8


def judge_language(
    asset: Asset, config: TextConfig, weight: Weight, table: np.ndarray
) -> Verdict:
    """Runs a prompt, then single tokens, and compares the logits of each step.

    Args:
        config: of the language model, its vocabulary that of `table`.
        weight: gives the weights before any rounding.
        table: the embeddings (vocabulary, hidden).
    Raises:
        CheckpointError: the asset is no language model, or of other sizes.
    """
    count = min(PROMPT + STEPS, _context(asset))
    ids = np.linspace(0, len(table) - 1, count).round().astype(np.int32)
    steps = [(0, min(PROMPT, count - 1))]
    steps += [(end, end + 1) for end in range(steps[0][1], count)]
    embeddings = table[ids][None]
    expected = _in_mlx(asset, config, weight, embeddings, steps)
    figures = []
    seconds = 0.0
    with asset_errors(asset.path), CoreAIModel(asset.path) as model:
        described = model.describe("main")
        dtype = np.dtype(described.input_descriptor(EMBEDS).dtype)
        state = _empty_caches(asset, config, dtype)
        for (begin, end), wanted in zip(steps, expected, strict=True):
            given = {
                EMBEDS: embeddings[:, begin:end].astype(dtype),
                POSITIONS: np.arange(end, dtype=np.int32)[None],
            }
            start = time.perf_counter()
            logits = model.run("main", given, state)[LOGITS]
            seconds = time.perf_counter() - start
            figures.append(psnr(wanted, logits.astype(np.float32)))
    worst = float(np.min(figures))
    what = f"{count} tokens"
    name = f"{asset.path.stem} main"
    return Verdict(name, what, worst, REQUIRED_PSNR, seconds)


def decoder_of(
    config: TextConfig, weight: Weight, context: int, precision: str, bits: int | None
) -> Any:
    """The Core AI program of the language model."""
    return Decoder(config, weight, context, precision, bits).program()


def asset_values(context: int, bits: int | None) -> dict[str, str]:
    """What the asset's metadata say beside those of every asset."""
    return {"context_length": str(context), "q_bits": str(bits or "none")}


def _context(asset: Asset) -> int:
    try:
        return int(asset.values["context_length"])
    except (KeyError, ValueError):
        raise CheckpointError(
            f"{asset.path}: not a language model that fastvlm-mlx wrote; its"
            " metadata.json gives no context_length"
        ) from None


def _empty_caches(asset: Asset, config: TextConfig, dtype: np.dtype) -> dict[str, Any]:
    from coreai.runtime import NDArray

    shape = cache_shape(config, _context(asset))
    return {name: NDArray(np.zeros(shape, dtype)) for name in (KEYS, VALUES)}


def _in_mlx(
    asset: Asset,
    config: TextConfig,
    weight: Weight,
    embeddings: np.ndarray,
    steps: list[tuple[int, int]],
) -> list[np.ndarray]:
    """MLX's logits (1, n, vocabulary) of each step."""
    given = asset.values.get("q_bits", "none")
    bits = int(given) if given in ("4", "8") else None
    config = replace(config, vocab_size=weight(_embeddings_name()).shape[0])
    model = language.build(config)
    leaves: Any = tree_flatten(model.parameters())
    loaded = []
    for name, _ in leaves:
        array = weight(name)
        if bits is not None and is_quantized(config, name, array):
            array = rounded(array, bits)
        loaded.append((name, mx.array(array)))
    model.load_weights(loaded)
    del loaded
    cache = language.make_cache(model)
    found = []
    for begin, end in steps:
        part = mx.array(embeddings[:, begin:end].astype(np.float32))
        states = language.hidden(model, part, cache)
        found.append(np.array(language.head(model, states)))
    return found


def _embeddings_name() -> str:
    return "model.embed_tokens.weight"
