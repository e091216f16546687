"""The decode loop that `stream_generate` and `batch_generate` share.

The next tokens are computed while the last ones are read: a step is handed to MLX
before the tokens it continues are looked at. So the KV cache runs one position ahead
of what was read.
"""

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from fastvlm_mlx.generation.logprobs import TokenLogprob
from fastvlm_mlx.generation.sampling import Constraint, Sampler, Sampling
from fastvlm_mlx.generation.stop_sequences import StopSequenceMatcher

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel
    from fastvlm_mlx.processing.tokenizer import Tokenizer

# Longer prompts are prefilled in parts of this many positions, to bound memory.
PREFILL_STEP = 2048
# Decode steps after which MLX's unused buffers are freed.
CLEAR_CACHE_EVERY = 256

KVCache = list[Any]  # one mlx_lm KVCache per layer


class Decoder:
    """Prefill and decode steps over one KV cache, for B answers at once.

    `cached` counts the positions in the cache; it is -1 if a step was interrupted, as
    its layers may then disagree.
    """

    def __init__(self, model: "FastVLMModel", cache: KVCache):
        self.cached = cache_length(cache)
        self._model = model
        self._cache = cache
        self._next = mx.array([], mx.uint32)

    def prefill(self, embeddings: mx.array) -> mx.array:
        """Takes in the prompt, (B, L, hidden), L at least 1.

        Returns:
            The logits after it, (B, vocab), not yet evaluated.
        """
        while embeddings.shape[1] > PREFILL_STEP:
            self._step(embeddings[:, :PREFILL_STEP])  # its logits are never computed
            mx.eval([layer.state for layer in self._cache])
            mx.clear_cache()
            embeddings = embeddings[:, PREFILL_STEP:]
        return self._step(embeddings)

    def tokens(
        self, logits: mx.array, choose: Sampler, max_tokens: int
    ) -> Iterator[mx.array]:
        """Yields the ids of each step, (B,), at most `max_tokens` times.

        `logits` are those of `prefill`; `choose` takes (B, vocab) to ids (B,).
        """
        embed = self._model.embed_tokens
        self._next = choose(logits)
        for count in range(1, max_tokens + 1):
            current = self._next
            if count < max_tokens:
                # (B,) -> (B, 1, hidden), from ids that may not be computed yet
                self._next = choose(self._step(embed(current[:, None])))
            yield current
            if count % CLEAR_CACHE_EVERY == 0:
                mx.clear_cache()

    def keep_rows(self, rows: list[int]):
        """Drops the other rows from the cache and from the ids that come next."""
        kept = mx.array(rows)
        self._next = self._next[kept]
        for layer in self._cache:
            layer.keys, layer.values = layer.keys[kept], layer.values[kept]

    def rewind(self, length: int):
        """Removes everything from the cache after its first `length` positions.

        All of it is removed if a step was interrupted, between two layers or between
        two lines of one: which tensors that left behind cannot be known.
        """
        if self.cached >= 0:
            trim_cache(self._cache, length)
        else:
            for layer in self._cache:
                layer.state = (None, None, 0)

    def _step(self, embeddings: mx.array) -> mx.array:
        before, self.cached = self.cached, -1
        logits = self._model.logits(embeddings, self._cache)
        self.cached = before + embeddings.shape[1]
        return logits


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
