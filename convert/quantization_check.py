"""Top-1 agreement and KL divergence of a quantized language model with its original.

Both models read the same fixed conversations about two drawn images, and their logits
are compared at every position of the answers.
"""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.device import device_dtype
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.language import head, hidden
from fastvlm_mlx.model.parameters import assign
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.chat_template import ImagePlaceholder, encode_turn
from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.weights.weight_files import Tensors

# Questions, and answers such as a FastVLM gives.
CONVERSATIONS = (
    (
        "Describe the image.",
        "The image shows a red circle on a background that fades from blue to yellow.",
    ),
    (
        "How many objects do you see?",
        "There are two objects in the image: a small one on the left and a larger"
        " one behind it.",
    ),
    (
        "Is there any text? Answer yes or no.",
        "No, there is no text in this image, only a pattern of coloured waves.",
    ),
)
# Pixels a side. Only the language models differ, so small images are enough.
IMAGE_SIZE = 256

LANGUAGE = "language_model."


@dataclass(frozen=True)
class Agreement:
    """A comparison of next-token predictions.

    Attributes:
        top1: the share of positions, 0..1, where both rank the same token first.
        kl: the mean of KL(original || quantized), in nats.
        positions: how many positions were compared.
    """

    top1: float
    kl: float
    positions: int


def measure_agreement(
    original: Tensors,
    config: ModelConfig,
    quantized: Tensors,
    quantized_config: ModelConfig,
    tokenizer: Tokenizer,
) -> Agreement | None:
    """Compares a quantized language model with its original.

    Removes the language model's tensors from `original`. To bound memory, a layer's
    weights are freed as soon as it has run, and the quantized tensors of a layer are
    evaluated when the original layer runs: the originals are never all in memory.

    Args:
        original: all tensors of the model, in the names of `model/vlm.py`.
        config: of the original.
        quantized: all tensors with a quantized language model.
        quantized_config: the same config with `quantization`.
        tokenizer: of both.
    Returns:
        the comparison, or None if the model has no encoder.
    """
    if config.vision is None:
        return None
    visual = _visual_tokens(config, original)
    text = {n: original.pop(n) for n in list(original) if n.startswith(LANGUAGE)}
    expected = _logits(config, text, visual, tokenizer, evaluate_too=quantized)
    text = {n: a for n, a in quantized.items() if n.startswith(LANGUAGE)}
    actual = _logits(quantized_config, text, visual, tokenizer)
    same, kl = [], []
    for p, q in zip(expected, actual, strict=True):
        same.append(mx.argmax(p, -1) == mx.argmax(q, -1))
        log_p, log_q = (x - mx.logsumexp(x, -1, keepdims=True) for x in (p, q))
        kl.append((mx.exp(log_p) * (log_p - log_q)).sum(-1))
        mx.eval(same[-1], kl[-1])
    return Agreement(
        top1=_scalar(mx.concatenate(same).mean()),
        kl=_scalar(mx.concatenate(kl).mean()),
        positions=sum(len(logits) for logits in expected),
    )


def _scalar(array: mx.array) -> float:
    return array.item()  # pyright: ignore


def _visual_tokens(config: ModelConfig, tensors: Tensors) -> mx.array:
    """The visual embeddings of the drawn images: (2, tokens, hidden)."""
    model = FastVLMModel(replace(config, text=None))
    vision = {n: a for n, a in tensors.items() if not n.startswith(LANGUAGE)}
    assign(model, vision, device_dtype())
    visual = model.encode_pixels(_images())
    mx.eval(visual)
    return visual


def _logits(
    config: ModelConfig,
    tensors: Tensors,
    visual: mx.array,
    tokenizer: Tokenizer,
    evaluate_too: Tensors | None = None,
) -> list[mx.array]:
    """The logits for every token of every answer and for the one after it.

    Empties `tensors`, and evaluates a layer's tensors of `evaluate_too` when it runs.

    Shapes:
        visual: (images, tokens, hidden)
        returns (answer + 1, vocab), float32, for each image and conversation
    """
    model = FastVLMModel(replace(config, vision=None, projector=None))
    assign(model, tensors, device_dtype())
    tensors.clear()
    layers = model.language_model.model.layers
    for index, layer in enumerate(layers):
        prefix = f"{LANGUAGE}model.layers.{index}."
        arrays = [a for n, a in (evaluate_too or {}).items() if n.startswith(prefix)]
        layers[index] = _RunOnceLayer(layer, arrays)
    prompts, answers = [], []
    for image in visual:
        for question, answer in CONVERSATIONS:
            pieces = encode_turn(tokenizer, question, [0], template=config.template)
            filled = [image if isinstance(p, ImagePlaceholder) else p for p in pieces]
            ids = tokenizer.encode(answer)
            prompts.append(model.embed([*filled, ids]))
            answers.append(len(ids) + 1)
    # One batch, since a layer runs only once. The padding is at the end, where causal
    # attention hides it from the positions that are compared.
    ends = [prompt.shape[1] for prompt in prompts]
    padded = [mx.pad(p, [(0, 0), (0, max(ends) - p.shape[1]), (0, 0)]) for p in prompts]
    states = hidden(model.language_model, mx.concatenate(padded))
    logits = []
    for row, end, count in zip(states, ends, answers, strict=True):
        answer_logits = head(model.language_model, row[end - count : end])
        logits.append(answer_logits.astype(mx.float32))
        mx.eval(logits[-1])
    return logits


class _RunOnceLayer:
    """A layer that frees its weights after one run; `arrays` are evaluated with it."""

    def __init__(self, layer: Any, arrays: list[mx.array]):
        self._layer: Any = layer
        self._arrays = arrays

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, *inputs: Any, **options: Any) -> mx.array:
        states = self._layer(*inputs, **options)
        mx.eval(states, self._arrays)
        self._layer, self._arrays = None, []
        mx.clear_cache()
        return states


def _images() -> np.ndarray:
    """Two drawn images, (2, R, R, 3) in 0..1: a smooth scene and a busy one."""
    y, x = np.mgrid[0 : 1 : IMAGE_SIZE * 1j, 0 : 1 : IMAGE_SIZE * 1j]
    scene = np.stack([x, y, 1 - x], axis=-1)
    scene[(x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.04] = (0.9, 0.1, 0.1)
    busy = np.stack([np.sin(40 * x), np.sin(40 * y), np.sin(40 * (x + y))], axis=-1)
    return np.stack([scene, busy / 2 + 0.5]).astype(np.float32)
