"""How far a quantised language model still says what the original says.

Both see the same fixed pictures and prompts. The original answers each greedily;
the quantised model is then asked for its next token after every one of those tokens.
A quantisation that turned to garbage shows at once, before anyone ships it.
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

PROMPTS = (
    "Describe the image.",
    "What colours are there?",
    "How many objects do you see?",
    "Is there any text? Answer yes or no.",
)
ANSWER_TOKENS = 16
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

    Casts `original` in place, tensor by tensor: beside a second whole copy of it, a
    conversion would need three times the checkpoint's memory.
    """
    if config.vision is None:
        return None
    for name, array in original.items():
        original[name] = array.astype(device_dtype())
        mx.eval(original[name])
    answers, expected = _answers(_build(config, original), tokenizer)
    given = _replies(_build(quantized_config, quantized), tokenizer, answers)
    same, kl = [], []
    for p, q in zip(expected, given, strict=True):
        same.append(mx.argmax(p, -1) == mx.argmax(q, -1))
        log_p, log_q = (x - mx.logsumexp(x, -1, keepdims=True) for x in (p, q))
        kl.append((mx.exp(log_p) * (log_p - log_q)).sum(-1))
    return Agreement(
        top1=number(mx.concatenate(same).mean()),
        kl=number(mx.concatenate(kl).mean()),
        positions=len(answers) * ANSWER_TOKENS,
    )


def _build(config: ModelConfig, tensors: Tensors) -> FastVLM:
    model = FastVLM(config)
    assign(model, tensors, device_dtype())
    return model


def _answers(
    model: FastVLM, tokenizer: Tokenizer
) -> tuple[list[list[int]], list[mx.array]]:
    """The original's greedy answers, and its logits for each of their tokens."""
    answers, logits = [], []
    for prompt in _prompts(model, tokenizer):
        cache, embeddings = _cache(model), prompt
        ids: list[int] = []
        rows = []
        for _ in range(ANSWER_TOKENS):
            rows.append(model.logits(embeddings, cache).astype(mx.float32))
            ids.append(int(number(mx.argmax(rows[-1]))))
            embeddings = model.embed([ids[-1:]])
        answers.append(ids)
        logits.append(mx.concatenate(rows))
    mx.eval(logits)
    return answers, logits


def _replies(
    model: FastVLM, tokenizer: Tokenizer, answers: list[list[int]]
) -> list[mx.array]:
    """The logits of another model after every token of the given answers."""
    logits = []
    for prompt, ids in zip(_prompts(model, tokenizer), answers, strict=True):
        embeddings = mx.concatenate([prompt, model.embed([ids[:-1]])], axis=1)
        logits.append(
            model.logits(embeddings, _cache(model), last=len(ids)).astype(mx.float32)
        )
        mx.eval(logits[-1])
    return logits


def _prompts(model: FastVLM, tokenizer: Tokenizer) -> list[mx.array]:
    """Every picture with every prompt, embedded: (1, L, hidden) each."""
    pictures = model.encode_pixels(_pictures())
    prompts = []
    for picture in pictures:
        for text in PROMPTS:
            pieces = turn(tokenizer, text, [0], template=model.config.template)
            prompts.append(
                model.embed([picture if isinstance(p, Picture) else p for p in pieces])
            )
    return prompts


def _cache(model: FastVLM) -> list:
    return mlx_lm_module("models.cache").make_prompt_cache(model.language_model)


def _pictures() -> np.ndarray:
    """Two drawn pictures, (2, R, R, 3) in 0..1: a smooth scene and a busy one."""
    y, x = np.mgrid[0 : 1 : PICTURE_SIZE * 1j, 0 : 1 : PICTURE_SIZE * 1j]
    scene = np.stack([x, y, 1 - x], axis=-1)
    scene[(x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.04] = (0.9, 0.1, 0.1)
    busy = np.stack([np.sin(40 * x), np.sin(40 * y), np.sin(40 * (x + y))], axis=-1)
    return np.stack([scene, busy / 2 + 0.5]).astype(np.float32)
