"""One answer as a stream of frozen chunks, which chat, server and benchmark all read.

The next token is computed while the last one is shown: a step is handed to MLX
before the token it continues is looked at. So the KV cache runs one token ahead of
what was yielded, and `generate` trims it when the answer ends, however it ends.
"""

import dataclasses
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import mlx.core as mx

from fastvlm_mlx.generation.sampling import Constraint, Sampling, make_sampler
from fastvlm_mlx.generation.stop_sequences import StopSequenceMatcher

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

# Longer prompts are prefilled in pieces of this many positions, to bound memory.
PREFILL_STEP = 2048

KVCache = list[Any]  # one mlx_lm KVCache per layer


@dataclass(frozen=True)
class Timings:
    """Seconds of each stage before the first token; None where not measured.

    Waiting for `encode` (projector included) or `prefill` to end costs time, so they
    are measured only on request (`detailed=True`); the sum is then a little larger
    than an ordinary TTFT.
    """

    decode: float | None = None
    preprocess: float | None = None
    encode: float | None = None
    prefill: float | None = None
    first_token: float | None = None


@dataclass(frozen=True)
class Chunk:
    """What one step of an answer adds, and the numbers so far.

    - `text`: may be empty: half a character, or what may become a stop text.
    - `token`: its id; None in a last chunk that only ends the answer.
    - `prompt_tokens`: positions of the whole prompt, `cached_tokens` of which were
      in the KV cache already; `visual_tokens` are those of this turn's images.
    - `generation_tokens`: of the answer so far; the stop token does not count.
    - `ttft`: seconds from the call to the first chunk.
    - `generation_tps`: of the steps after the first; 0 until there is one.
    - `peak_memory`: bytes, of the whole process since it started.
    - `finish_reason`: None, or in the last chunk "stop", "length" or "cancelled".
    """

    text: str
    token: int | None
    prompt_tokens: int
    visual_tokens: int
    cached_tokens: int
    generation_tokens: int
    ttft: float
    generation_tps: float
    peak_memory: int
    timings: Timings
    finish_reason: str | None = None


def stream_generate(
    model: "FastVLMModel",
    embeddings: mx.array,
    cache: KVCache,
    sampling: Sampling,
    *,
    visual_tokens: int = 0,
    timings: Timings | None = None,
    started: float | None = None,
    detailed: bool = False,
    cancel: threading.Event | None = None,
    constraint: Constraint | None = None,
) -> Generator[Chunk, None, None]:
    """Streams the answer to the prompt `embeddings`, `(1, L, hidden)`, L at least 1.

    `cache` holds what comes before the prompt and grows in place. When the stream
    ends (by a stop token, a limit, `cancel`, an exception, or closing it early) it
    holds a beginning of the prompt and the yielded tokens, never anything else; it is
    empty if a step was interrupted halfway, since its layers then disagree.

    `started` is `time.perf_counter()` at the user's call. A set `cancel` ends the
    answer with the finish reason "cancelled". `constraint` is a rule for its form.
    """
    started = time.perf_counter() if started is None else started
    stages = timings or Timings()
    held = cache_length(cache)  # -1 while a step may have changed some layers only
    cached, prompt = held, held + embeddings.shape[1]
    yielded = 0
    choose = make_sampler(sampling, constraint)
    text = StopSequenceMatcher(model.tokenizer.stream(), tuple(sampling.stop))
    ttft = first = 0.0

    def step(inputs: mx.array) -> mx.array:
        nonlocal held
        before, held = held, -1
        logits = model.logits(inputs, cache)
        held = before + inputs.shape[1]
        return logits

    def chunk(shown: str, token: int | None, steps: int, finish: str | None) -> Chunk:
        seconds = time.perf_counter() - first
        return Chunk(
            text=shown,
            token=token,
            prompt_tokens=prompt,
            visual_tokens=visual_tokens,
            cached_tokens=cached,
            generation_tokens=yielded,
            ttft=ttft,
            generation_tps=(steps - 1) / seconds if steps > 1 else 0.0,
            peak_memory=mx.get_peak_memory(),
            timings=stages,
            finish_reason=finish,
        )

    try:
        before = time.perf_counter()
        while embeddings.shape[1] > PREFILL_STEP:
            step(embeddings[:, :PREFILL_STEP])  # these logits are never computed
            mx.eval([layer.state for layer in cache])
            mx.clear_cache()
            embeddings = embeddings[:, PREFILL_STEP:]
        logits = step(embeddings)
        if detailed:
            mx.eval(logits)
            prefilled = time.perf_counter()
            stages = dataclasses.replace(stages, prefill=prefilled - before)
            before = prefilled
        pending = choose(logits)

        for steps in range(1, sampling.max_tokens + 1):
            current, last = pending, steps == sampling.max_tokens
            if not last:
                pending = choose(step(_embed(model, current)))
            token = cast(int, current.item())
            if steps == 1:
                first = time.perf_counter()
                ttft = first - started
                if detailed:
                    stages = dataclasses.replace(stages, first_token=first - before)
            if token in model.tokenizer.stop_ids:
                yield chunk(text.finish(), None, steps, "stop")
                return
            shown = text.push(token)
            if last and not text.stopped:
                shown += text.finish()
            finish = "stop" if text.stopped else "length" if last else None
            cancelled = not finish and cancel is not None and cancel.is_set()
            yielded += 1
            yield chunk(shown, token, steps, "cancelled" if cancelled else finish)
            if finish or cancelled:
                return
            if steps % 256 == 0:
                mx.clear_cache()
    finally:
        _trim(cache, held, prompt + yielded)


def cache_length(cache: KVCache) -> int:
    """How many positions `cache` holds."""
    return cache[0].offset


def trim_cache(cache: KVCache, length: int):
    """Forgets everything in `cache` after its first `length` positions."""
    for layer in cache:
        layer.trim(max(layer.offset - length, 0))


def _trim(cache: KVCache, held: int, wanted: int):
    if held >= 0:
        trim_cache(cache, wanted)
        return
    # Interrupted between two layers, or between two lines of one: which tensors that
    # left behind cannot be known, so none is kept.
    for layer in cache:
        layer.state = (None, None, 0)


def _embed(model: "FastVLMModel", token: mx.array) -> mx.array:
    # (1,) -> (1, 1, hidden), from an id that may not have been computed yet
    return model.embed_tokens(token[None])
