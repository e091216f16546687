"""Prefill and steps over KV caches, and the ids of an answer made text.

`BatchDecoder` (`batch_decoder.py`) is the decode loop above these.
"""

from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from fastvlm_mlx.generation.logprobs import TokenLogprob
from fastvlm_mlx.generation.sampling import Constraint, Sampling
from fastvlm_mlx.generation.stop_sequences import StopSequenceMatcher
from fastvlm_mlx.model import language

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel
    from fastvlm_mlx.processing.tokenizer import Tokenizer

# Longer prompts are prefilled in parts of this many positions, to bound memory and the
# time that the answers beside it wait.
PREFILL_STEP = 512
# Decode steps after which MLX's unused buffers are freed.
CLEAR_CACHE_EVERY = 256

KVCache = list[Any]  # one mlx_lm KVCache per layer


class RowCache:
    """The KV cache of one row.

    `cached` counts its positions; it is -1 if a step was interrupted, as its layers
    may then disagree.
    """

    def __init__(self, layers: KVCache):
        self.layers = layers
        self.cached = cache_length(layers)

    def rewind(self, length: int):
        """Removes everything after the first `length` positions.

        All of it is removed if a step was interrupted, between two layers or between
        two lines of one: which tensors that left behind cannot be known.
        """
        if self.cached >= 0:
            trim_cache(self.layers, length)
        else:
            for layer in self.layers:
                layer.state = (None, None, 0)


def forward(
    model: "FastVLMModel", embeddings: mx.array, rows: Sequence[RowCache]
) -> mx.array:
    """Takes L positions of each of B rows in: (B, L, hidden) to logits (B, vocab).

    The rows may be of different lengths.
    """
    before = [row.cached for row in rows]
    for row in rows:
        row.cached = -1
    layers = [row.layers for row in rows]
    cache = layers[0]
    if len(rows) > 1:
        cache = language.join_caches(model.language_model, layers)
    logits = model.logits(embeddings, cache)
    for row, cached in zip(rows, before, strict=True):
        row.cached = cached + embeddings.shape[1]
    return logits


def prefill(
    model: "FastVLMModel", embeddings: mx.array, rows: Sequence[RowCache]
) -> Generator[None, None, mx.array]:
    """Takes prompts in, (B, L, hidden), L at least 1; yields between two parts.

    Returns:
        The logits after them, (B, vocab), not yet evaluated.
    """
    while embeddings.shape[1] > PREFILL_STEP:
        # Its logits are never computed.
        forward(model, embeddings[:, :PREFILL_STEP], rows)
        mx.eval([layer.state for row in rows for layer in row.layers])
        mx.clear_cache()
        embeddings = embeddings[:, PREFILL_STEP:]
        yield
    return forward(model, embeddings, rows)


def whole(parts: Generator[None, None, mx.array]) -> mx.array:
    """What `prefill` returns, without a pause between its parts."""
    while True:
        try:
            next(parts)
        except StopIteration as end:
            return end.value


class AnswerReader:
    """The ids of one answer become text, until a stop token, a stop sequence or
    `max_tokens` ends it.

    An answer with a `constraint` ends as that says: a stop sequence would cut JSON in
    two. `tokens` are the ids so far, without the stop token; `finish_reason` is None,
    then "stop" or "length". `logprobs` are those that `push` was given, of the tokens
    of which some text is shown: a stop sequence and what may begin one are not.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        sampling: Sampling,
        constraint: Constraint | None = None,
    ):
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.logprobs: list[TokenLogprob] = []
        # With the number of characters before its token's.
        self._waiting: deque[tuple[int, TokenLogprob]] = deque()
        self._shown = 0
        stop = () if constraint is not None else tuple(sampling.stop)
        self._matcher = StopSequenceMatcher(tokenizer.stream(), stop)
        self._stop_ids = () if sampling.ignore_eos else tokenizer.stop_ids
        self._max_tokens = sampling.max_tokens

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the answer."""
        return self._matcher.matched

    def push(self, token: int, logprob: TokenLogprob | None = None) -> str:
        """Takes the next id; returns the text that is known to follow."""
        start, known = self._shown + self._matcher.held, len(self.tokens)
        text = self._push(token)
        self._shown += len(text)
        if logprob is not None:
            if len(self.tokens) > known:
                self._waiting.append((start, logprob))
            # Tokens without text, such as control tokens, stand for themselves.
            whole = self.finish_reason is not None and not self._matcher.stopped
            while self._waiting and (whole or self._waiting[0][0] < self._shown):
                self.logprobs.append(self._waiting.popleft()[1])
        return text

    def _push(self, token: int) -> str:
        if token in self._stop_ids:
            self.finish_reason = "stop"
            return self._matcher.finish()
        text = self._matcher.push(token)
        self.tokens.append(token)
        is_last = len(self.tokens) == self._max_tokens
        if is_last and not self._matcher.stopped:
            text += self._matcher.finish()
        if self._matcher.stopped:
            self.finish_reason = "stop"
        elif is_last:
            self.finish_reason = "length"
        return text


def cache_length(cache: KVCache) -> int:
    """How many positions `cache` holds."""
    return cache[0].offset


def trim_cache(cache: KVCache, length: int):
    """Removes everything in `cache` after its first `length` positions."""
    for layer in cache:
        layer.trim(max(layer.offset - length, 0))
