"""One answer as a stream of frozen chunks with timings: alone, or beside others.

On a GPU the KV cache runs one token ahead of what was yielded (see `batch_decoder.py`),
so it is trimmed when the answer ends, however it ends.
"""

import contextlib
import dataclasses
import itertools
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from fastvlm_mlx.generation.batch_decoder import BatchDecoder, Row
from fastvlm_mlx.generation.decode import KVCache
from fastvlm_mlx.generation.logprobs import TokenLogprob
from fastvlm_mlx.generation.sampling import Constraint, Sampling

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel


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

    - `text`: may be empty: half a character, or what may begin a stop sequence.
    - `token`: its id; None in a last chunk that only ends the answer.
    - `prompt_tokens`: positions of the whole prompt, `cached_tokens` of which were
      in the KV cache already; `visual_tokens` are those of this turn's images.
    - `prompt_tps`: positions a second of the prompt that were not cached, from the
      first step to the first token; encoding counts too, unless `detailed`.
    - `generation_tokens`: of the answer so far; the stop token does not count.
    - `ttft`: seconds from the call to the first chunk.
    - `generation_tps`: of the steps after the first; 0 until there is one.
    - `peak_memory`: MLX's, in bytes (mlx-lm's is in GB), since the process started.
    - `finish_reason`: None, or in the last chunk "stop", "length" or "cancelled".
    - `stop_sequence`: in the last chunk the one that ended the answer, if one did.
    - `logprobs`: None unless asked for; of the tokens of which text is shown with this
      chunk and was not before: none while text is held back, then several.
    """

    text: str
    token: int | None
    prompt_tokens: int
    prompt_tps: float
    visual_tokens: int
    cached_tokens: int
    generation_tokens: int
    ttft: float
    generation_tps: float
    peak_memory: int
    timings: Timings
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    stop_sequence: str | None = None


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
    top_logprobs: int | None = None,
) -> Generator[Chunk, None, None]:
    """Streams the answer to the prompt `embeddings`, `(1, L, hidden)`, L at least 1.

    `cache` holds what comes before the prompt and grows in place. When the stream
    ends (by a stop token, a limit, `cancel`, an exception, or closing it early) it
    holds a prefix of the prompt and the yielded tokens, never anything else; it is
    empty if a step was interrupted halfway, since its layers then disagree.

    `started` is `time.perf_counter()` at the user's call. A set `cancel` ends the
    answer with the finish reason "cancelled". `constraint` is a rule for its form.
    `top_logprobs`, 0 to 20, fills `Chunk.logprobs`, each with so many likely tokens.
    """
    chunks = stream_beside(
        BatchDecoder(model),
        Row(model, cache, sampling, constraint, top_logprobs),
        embeddings,
        visual_tokens=visual_tokens,
        timings=timings,
        started=started,
        detailed=detailed,
        cancel=cancel,
    )
    yield from without_pauses(chunks)


def without_pauses(
    chunks: Generator[Chunk | None, None, None],
) -> Generator[Chunk, None, None]:
    """The chunks of an answer that is decoded alone: nobody takes its pauses."""
    with contextlib.closing(chunks):
        for chunk in chunks:
            if chunk is not None:
                yield chunk


def stream_beside(
    decoder: BatchDecoder,
    row: Row,
    embeddings: mx.array,
    *,
    visual_tokens: int = 0,
    timings: Timings | None = None,
    started: float | None = None,
    detailed: bool = False,
    cancel: threading.Event | None = None,
) -> Generator[Chunk | None, None, None]:
    """As `stream_generate`, for an answer that `decoder` decodes beside others.

    It yields None before its first chunk where the others may go on.
    """
    started = time.perf_counter() if started is None else started
    stages = timings or Timings()
    cached = row.cache.cached
    prompt = cached + embeddings.shape[1]
    tokens = 0  # of the answer, as far as it was yielded
    try:
        prefill_started = before = time.perf_counter()
        logits = yield from decoder.prefill([row], embeddings)
        del embeddings
        if detailed:
            mx.eval(logits)
            prefilled = time.perf_counter()
            stages = dataclasses.replace(stages, prefill=prefilled - before)
            before = prefilled
        decoder.join([row], logits)
        del logits
        yield None
        first = ttft = 0.0
        for steps in itertools.count(1):
            step = decoder.next(row)
            if steps == 1:
                first = time.perf_counter()
                ttft = first - started
                if detailed:
                    stages = dataclasses.replace(stages, first_token=first - before)
            finish = step.finish_reason
            if finish is None and cancel is not None and cancel.is_set():
                finish = "cancelled"
            tokens = step.tokens
            seconds = time.perf_counter() - first
            yield Chunk(
                text=step.text,
                token=step.token,
                prompt_tokens=prompt,
                prompt_tps=(prompt - cached) / (first - prefill_started),
                visual_tokens=visual_tokens,
                cached_tokens=cached,
                generation_tokens=tokens,
                ttft=ttft,
                generation_tps=(steps - 1) / seconds if steps > 1 else 0.0,
                peak_memory=mx.get_peak_memory(),
                timings=stages,
                finish_reason=finish,
                logprobs=step.logprobs,
                # The reader may be ahead of this step.
                stop_sequence=row.reader.stop_sequence if finish else None,
            )
            if finish:
                return
    finally:
        decoder.remove(row, prompt + tokens)
