"""Constrained decoding to JSON or a JSON schema (llguidance).

llguidance says which tokens may come next, but not how to end in time. If max_tokens
comes near, the shortest valid completion is forced, so the output always parses.

Needs llguidance, of the extra `serve`.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.json_schema import (
    grammar_of,
    import_llguidance,
    limits,
    schema_error,
)
from fastvlm_mlx.generation.sampling import Sampler

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel


# Texts that end a JSON value soonest, the best first; the first allowed one is taken.
CLOSING_TEXTS = ("}", "]", '"', ",", ":", "0", "null", "false", "{", "[")
# Where one of these is allowed, a bracket is text and only a quote ends the string.
STRING_TEXTS = ("a", "A", " ", "_", "-")
MAX_COMPLETION = 1024  # tokens of a shortest completion; the search ends there
SEARCH_SECONDS = 2.0  # for a shortest completion; milliseconds are usual
CHECK_EVERY_BELOW = 48  # with fewer spare tokens than this, each step is checked
_TOKENIZER_LOCK = threading.Lock()


class JSONConstraint:
    """A rule for one answer of `model`: JSON of `schema`, or any object if None.

    A `sampling.Constraint` for `Conversation.stream` or `batch_generate`; every answer
    needs a new one.

    Raises:
        OptionError: the schema cannot be followed.
        FastVLMError: llguidance is not installed.
    """

    def __init__(self, model: "FastVLMModel", schema: Any = None):
        self._vocabulary = llguidance_tokenizer(model)
        self._matcher = import_llguidance().LLMatcher(
            self._vocabulary, grammar_of(schema), log_level=0, limits=limits()
        )
        self._check()
        self._closing = self._ids(CLOSING_TEXTS)
        self._quote = self._ids('"')
        self._text = self._ids(STRING_TEXTS)
        self._last: mx.array | None = None
        self._forced: Iterator[int] | None = None
        self._next_look: int | None = None  # at this many tokens left

    def choose(self, logits: mx.array, draw: Sampler, left: int) -> mx.array:
        """See `sampling.Constraint`."""
        mx.async_eval(logits)  # the model computes while the mask is found
        if self._last is not None:
            self._consume(self._matcher, int(self._last.item()))  # type: ignore
            self._last = None
        if self._matcher.is_stopped():
            # The end token; the look-ahead asks once more after it.
            return mx.array([self._vocabulary.eos_token])
        token = None
        if self._forced is None:
            token = self._draw_with_room(logits, draw, left)
        if token is None:
            assert self._forced is not None
            token = mx.array([next(self._forced, self._vocabulary.eos_token)])
        self._last = token
        return token

    def _draw_with_room(
        self, logits: mx.array, draw: Sampler, left: int
    ) -> mx.array | None:
        """A token that leaves room for a completion, or None: then it is `_forced`."""
        token = draw(self._masked(logits, self._matcher))
        if self._next_look is not None and left > self._next_look:
            return token
        completion = self._shortest_completion(self._matcher)
        spare = left - len(completion)
        if spare < 0 and self._next_look is None:
            raise OptionError(
                f"max_tokens {left}: too few for JSON of this schema;"
                f" give at least {len(completion)}"
            )
        # One token seldom makes the shortest completion much longer.
        self._next_look = left - spare // 8
        if spare > CHECK_EVERY_BELOW:
            return token
        ahead = self._matcher.deep_copy()
        self._consume(ahead, int(token.item()))  # type: ignore
        if ahead.is_stopped() or len(self._shortest_completion(ahead)) < left:
            return token
        self._forced = iter(completion)
        return None

    def _shortest_completion(self, matcher: Any) -> list[int]:
        """The tokens of the shortest completion found, the end token included."""
        matcher = matcher.deep_copy()
        completion: list[int] = []
        latest = time.monotonic() + SEARCH_SECONDS
        while len(completion) < MAX_COMPLETION:
            if time.monotonic() > latest:
                raise schema_error("its end takes too long to find")
            if matcher.is_accepting() or matcher.is_stopped():
                break
            forced = matcher.compute_ff_bytes()
            ids = self._vocabulary.tokenize_bytes(forced) if forced else []
            if not ids:
                ids = [self._closing_token(_bits(matcher.compute_bitmask()))]
            for token in ids:
                if not matcher.consume_token(token):
                    return [*completion, self._vocabulary.eos_token]
                completion.append(token)
        return [*completion, self._vocabulary.eos_token]

    def _closing_token(self, allowed: np.ndarray) -> int:
        in_text = any(allowed[token] for token in self._text)
        for token in [*self._quote, *self._closing] if in_text else self._closing:
            if allowed[token]:
                return token
        return int(allowed.argmax())

    def _ids(self, texts: Iterable[str]) -> list[int]:
        """The tokens of those `texts` that are one token."""
        spelled = map(self._vocabulary.tokenize_str, texts)
        return [ids[0] for ids in spelled if len(ids) == 1]

    def _masked(self, logits: mx.array, matcher: Any) -> mx.array:
        words = np.frombuffer(matcher.compute_bitmask(), np.uint32)
        self._check()
        # [vocab / 32] -> [vocab], unpacked by MLX: a 32nd of the bytes to hand over
        bits = (mx.array(words)[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1
        allowed = bits.flatten()[: logits.shape[-1]].astype(mx.bool_)
        return mx.where(allowed, logits, -mx.inf)

    def _consume(self, matcher: Any, token: int):
        matcher.consume_token(token)
        self._check()

    def _check(self):
        if self._matcher.is_error():
            raise schema_error(self._matcher.get_error())


def llguidance_tokenizer(model: "FastVLMModel") -> Any:
    """`model`'s tokenizer as llguidance's, made on first use.

    That takes seconds with a large vocabulary; a server calls it ahead of time.

    Raises:
        FastVLMError: llguidance is not installed.
    """
    llguidance = import_llguidance()
    with _TOKENIZER_LOCK:
        if model.llguidance_tokenizer is None:
            tokenizer, text = model.tokenizer, model.config.text
            assert text is not None  # a model that generates text has one
            model.llguidance_tokenizer = llguidance.LLTokenizer(
                tokenizer.to_json(),
                n_vocab=text.vocab_size,
                eos_token=sorted(tokenizer.stop_ids),
                slices=llguidance.LLTokenizer.json_slices(),
            )
        return model.llguidance_tokenizer


def _bits(mask: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")


def json_constraint(model: "FastVLMModel", schema: Any) -> JSONConstraint | None:
    """The constraint to JSON of `schema`; None if there is no schema."""
    return None if schema is None else JSONConstraint(model, schema)
