"""The loss of a batch: cross entropy of the answers' tokens, and of nothing else.

The vocabulary's head, a quarter of the smallest model's work, is computed only where
an answer's token comes next.
"""

from collections.abc import Callable, Collection
from contextlib import nullcontext
from functools import partial
from typing import Any

import mlx.core as mx

from fastvlm_mlx.model import language
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.train.checkpointing import below, checkpointed, checkpointed_layers
from fastvlm_mlx.train.data.batches import Batch

# Logits of 512 positions and 151,936 tokens take 311 MB in float32, and their gradient
# again; of more positions they are computed in pieces, and again for the gradient.
POSITIONS = 512


def answer_loss(
    model: FastVLMModel,
    batch: Batch,
    *,
    learning: Collection[str] = (),
    checkpoint: bool = False,
) -> mx.array:
    """The weighted sum of the answers' cross entropies, a float32 scalar.

    Divided by the sum of `batch.weights` it is the mean. It has gradients inside
    `cpu.kernels.switched_off()` only.

    Args:
        learning: names of the language model's parameters that need gradients.
        checkpoint: computes each layer again for the gradients.
    """
    text = model.language_model
    inputs = embeddings(model, batch)
    with checkpointed_layers(text, learning) if checkpoint else nullcontext():
        states = language.hidden(text, inputs)
    states = states.reshape(-1, states.shape[-1])[batch.positions]
    total, several = mx.array(0.0), len(states) > POSITIONS
    for start in range(0, len(states), POSITIONS):
        cut = slice(start, start + POSITIONS)
        # Only the states are inputs: indices have no gradients.
        piece: Callable[[mx.array], mx.array] = partial(
            _head_loss, text, targets=batch.targets[cut], weights=batch.weights[cut]
        )
        if several:
            name = "lm_head" if "lm_head" in text else "model.embed_tokens"
            module = text.lm_head if "lm_head" in text else text.model.embed_tokens
            piece = checkpointed(module, piece, below(name, learning))
        total += piece(states[cut])
    return total


def embeddings(model: FastVLMModel, batch: Batch) -> mx.array:
    """The prompt's embeddings, those of images in their places: (B, L, hidden)."""
    words = model.embed_tokens(batch.ids)
    if not batch.features.shape[0]:
        return words
    features = batch.features.astype(_projector_dtype(model, words.dtype))
    visual = model.project(features).astype(words.dtype)
    rows = batch.feature_rows
    return mx.where((rows >= 0)[..., None], visual[mx.maximum(rows, 0)], words)


def _projector_dtype(model: FastVLMModel, otherwise: mx.Dtype) -> mx.Dtype:
    layers = model.projector.layers if model.projector is not None else []
    return layers[0].bias.dtype if layers else otherwise


def _head_loss(
    text: Any, states: mx.array, targets: mx.array, weights: mx.array
) -> mx.array:
    logits = language.head(text, states).astype(mx.float32)
    # [A]
    losses = mx.logsumexp(logits, axis=-1) - mx.take_along_axis(
        logits, targets[:, None], axis=-1
    ).squeeze(-1)
    return (losses * weights).sum()
