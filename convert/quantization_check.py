"""How far a quantized language model still says what the original says.

Both read the same fixed conversations about the same fixed images, and are asked
for the next token at every place of the answers. A quantization that turned to
garbage shows at once, before anyone ships it.
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
from fastvlm_mlx.weights.weight_files import Tensors, number

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
# The encoder is the same in both, so a small image probes the language model as
# well as a large one, and in a fraction of the time.
IMAGE_SIZE = 256

LANGUAGE = "language_model."


@dataclass(frozen=True)
class Agreement:
    """Next-token predictions compared at `positions` places.

    `top1` is the share where both rank the same token first; `kl` the mean divergence
    of the quantized distribution from the original's, in nats.
    """

    top1: float
    kl: float
    positions: int


def measure(
    original: Tensors,
    config: ModelConfig,
    quantized: Tensors,
    quantized_config: ModelConfig,
    tokenizer: Tokenizer,
) -> Agreement | None:
    """Compares two language models; None where there is no encoder to show images.

    Takes the language model out of `original`. On a CPU both are float32, so each of
    their layers exists only while it runs. What `quantized` makes of a layer is made
    beside it, so that the originals are never in memory all at once.
    """
    if config.vision is None:
        return None
    visual = _visual(config, original)
    words = {n: original.pop(n) for n in list(original) if n.startswith(LANGUAGE)}
    expected = _logits(config, words, visual, tokenizer, made=quantized)
    words = {n: a for n, a in quantized.items() if n.startswith(LANGUAGE)}
    given = _logits(quantized_config, words, visual, tokenizer)
    same, kl = [], []
    for p, q in zip(expected, given, strict=True):
        same.append(mx.argmax(p, -1) == mx.argmax(q, -1))
        log_p, log_q = (x - mx.logsumexp(x, -1, keepdims=True) for x in (p, q))
        kl.append((mx.exp(log_p) * (log_p - log_q)).sum(-1))
        mx.eval(same[-1], kl[-1])
    return Agreement(
        top1=number(mx.concatenate(same).mean()),
        kl=number(mx.concatenate(kl).mean()),
        positions=sum(len(logits) for logits in expected),
    )


def _visual(config: ModelConfig, tensors: Tensors) -> mx.array:
    """The drawn images as the encoder sees them: (2, tokens, hidden)."""
    model = FastVLMModel(replace(config, text=None))
    seeing = {n: a for n, a in tensors.items() if not n.startswith(LANGUAGE)}
    assign(model, seeing, device_dtype())
    visual = model.encode_pixels(_images())
    mx.eval(visual)
    return visual


def _logits(
    config: ModelConfig,
    tensors: Tensors,
    visual: mx.array,
    tokenizer: Tokenizer,
    made: Tensors | None = None,
) -> list[mx.array]:
    """The logits for every token of every answer and the one behind it:
    (answer + 1, vocab) each, float32.

    Empties `tensors`, and evaluates each layer's part of `made` as the layer runs.
    """
    model = FastVLMModel(replace(config, vision=None, projector=None))
    assign(model, tensors, device_dtype())
    tensors.clear()
    layers = model.language_model.model.layers
    for index, layer in enumerate(layers):
        prefix = f"{LANGUAGE}model.layers.{index}."
        beside = [a for n, a in (made or {}).items() if n.startswith(prefix)]
        layers[index] = _Passing(layer, beside)
    prompts, answers = [], []
    for image in visual:
        for question, answer in CONVERSATIONS:
            pieces = encode_turn(tokenizer, question, [0], template=config.template)
            shown = [image if isinstance(p, ImagePlaceholder) else p for p in pieces]
            ids = tokenizer.encode(answer)
            prompts.append(model.embed([*shown, ids]))
            answers.append(len(ids) + 1)
    # All at once, since a layer runs once. No position sees the padding behind it.
    ends = [prompt.shape[1] for prompt in prompts]
    padded = [mx.pad(p, [(0, 0), (0, max(ends) - p.shape[1]), (0, 0)]) for p in prompts]
    states = hidden(model.language_model, mx.concatenate(padded))
    found = []
    for row, end, count in zip(states, ends, answers, strict=True):
        logits = head(model.language_model, row[end - count : end])
        found.append(logits.astype(mx.float32))
        mx.eval(found[-1])
    return found


class _Passing:
    """A layer that is let go as soon as it has run, its weights with it; `beside` is
    evaluated with it."""

    def __init__(self, layer: Any, beside: list[mx.array]):
        self._layer: Any = layer
        self._beside = beside

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, *inputs: Any, **options: Any) -> mx.array:
        states = self._layer(*inputs, **options)
        mx.eval(states, self._beside)
        self._layer, self._beside = None, []
        mx.clear_cache()
        return states


def _images() -> np.ndarray:
    """Two drawn images, (2, R, R, 3) in 0..1: a smooth scene and a busy one."""
    y, x = np.mgrid[0 : 1 : IMAGE_SIZE * 1j, 0 : 1 : IMAGE_SIZE * 1j]
    scene = np.stack([x, y, 1 - x], axis=-1)
    scene[(x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.04] = (0.9, 0.1, 0.1)
    busy = np.stack([np.sin(40 * x), np.sin(40 * y), np.sin(40 * (x + y))], axis=-1)
    return np.stack([scene, busy / 2 + 0.5]).astype(np.float32)
