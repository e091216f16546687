"""How far a quantised language model still says what the original says.

Both read the same fixed conversations about the same fixed pictures, and are asked
for the next token at every place of the answers. A quantisation that turned to
garbage shows at once, before anyone ships it.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from fastvlm_mlx.config import ModelConfig
from fastvlm_mlx.device import assign, device_dtype
from fastvlm_mlx.language import mlx_lm_module
from fastvlm_mlx.model import FastVLM
from fastvlm_mlx.prompt import Picture, Tokenizer, turn
from fastvlm_mlx.tensors import Tensors, number

# Questions, and answers such as a FastVLM gives.
CONVERSATIONS = (
    (
        "Describe the image.",
        "The image shows a red circle on a background that fades from blue to yellow.",
    ),
    (
        "How many objects do you see?",
        "There are two objects in the picture: a small one on the left and a larger"
        " one behind it.",
    ),
    (
        "Is there any text? Answer yes or no.",
        "No, there is no text in this image, only a pattern of coloured waves.",
    ),
)
# The encoder is the same in both, so a small picture probes the language model as
# well as a large one, and in a fraction of the time.
PICTURE_SIZE = 256


@dataclass(frozen=True)
class Agreement:
    """Next-token predictions compared at `positions` places.

    `top1` is the share where both rank the same token first; `kl` the mean divergence
    of the quantised distribution from the original's, in nats.
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
    """Compares two language models; None where there is no encoder to show pictures.

    Casts `original` in place, tensor by tensor, and empties it when it has spoken:
    a second whole model beside it would need four times the checkpoint's memory.
    """
    if config.vision is None:
        return None
    for name, array in original.items():
        original[name] = array.astype(device_dtype())
        mx.eval(original[name])
        mx.clear_cache()
    expected = _logits(_build(config, original), tokenizer)
    original.clear()
    mx.clear_cache()
    given = _logits(_build(quantized_config, quantized), tokenizer)
    same, kl = [], []
    for p, q in zip(expected, given, strict=True):
        same.append(mx.argmax(p, -1) == mx.argmax(q, -1))
        log_p, log_q = (x - mx.logsumexp(x, -1, keepdims=True) for x in (p, q))
        kl.append((mx.exp(log_p) * (log_p - log_q)).sum(-1))
    return Agreement(
        top1=number(mx.concatenate(same).mean()),
        kl=number(mx.concatenate(kl).mean()),
        positions=sum(len(logits) for logits in expected),
    )


def _build(config: ModelConfig, tensors: Tensors) -> FastVLM:
    model = FastVLM(config)
    assign(model, tensors, device_dtype())
    return model


def _logits(model: FastVLM, tokenizer: Tokenizer) -> list[mx.array]:
    """The logits for every token of every answer and the one behind it:
    (answer + 1, vocab) each, float32."""
    found = []
    for picture in model.encode_pixels(_pictures()):
        for question, answer in CONVERSATIONS:
            pieces = turn(tokenizer, question, [0], template=model.config.template)
            shown = [picture if isinstance(p, Picture) else p for p in pieces]
            ids = tokenizer.encode(answer)
            cache = mlx_lm_module("models.cache").make_prompt_cache(
                model.language_model
            )
            logits = model.logits(model.embed([*shown, ids]), cache, len(ids) + 1)
            found.append(logits.astype(mx.float32))
            mx.eval(found[-1])
            mx.clear_cache()
    return found


def _pictures() -> np.ndarray:
    """Two drawn pictures, (2, R, R, 3) in 0..1: a smooth scene and a busy one."""
    y, x = np.mgrid[0 : 1 : PICTURE_SIZE * 1j, 0 : 1 : PICTURE_SIZE * 1j]
    scene = np.stack([x, y, 1 - x], axis=-1)
    scene[(x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.04] = (0.9, 0.1, 0.1)
    busy = np.stack([np.sin(40 * x), np.sin(40 * y), np.sin(40 * (x + y))], axis=-1)
    return np.stack([scene, busy / 2 + 0.5]).astype(np.float32)
