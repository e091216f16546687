"""Log-probabilities by one forward pass over prompt and answer, without a KV cache."""

from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.conversation.attachment import Attachment
from fastvlm_mlx.model import language
from fastvlm_mlx.model.vlm import FastVLMModel


def full_logprobs(
    model: FastVLMModel, prompt: list[Any], answer: list[int]
) -> np.ndarray:
    """Of every token before each id of `answer` and after the last, in float64.

    Shapes:
        prompt: pieces of ids and attachments; returns (len(answer) + 1, vocab)
    """
    parts = [
        piece.features(model) if isinstance(piece, Attachment) else piece
        for piece in prompt
    ]
    states = language.hidden(model.language_model, model.embed([*parts, answer]))
    logits = language.head(model.language_model, states[0, -len(answer) - 1 :])
    rows = np.array(logits.astype(mx.float32), np.float64)
    rows -= rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))
