"""Answers that are JSON, or JSON of a schema, whatever the model would rather say.

llguidance tells which tokens may come next. It cannot tell how to end in time, and an
answer cut off by `max_tokens` is no JSON. So the shortest way to the end is kept in
sight, and taken once no token is left to lose.

An extra, `pip install 'fastvlm-mlx[serve]'`.
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


# What leads to an end soonest, first; `_way_out` takes the first that is allowed.
_CLOSING = ("}", "]", '"', ",", ":", "0", "null", "false", "{", "[")
# Where one of these may come, a bracket is text and only a quote ends it.
_TEXT = ("a", "A", " ", "_", "-")
_LONGEST = 1024  # tokens of a way out; beyond that it is not looked for
_PATIENCE = 2.0  # seconds for a way out; milliseconds are usual
_NEAR = 48  # with fewer spare tokens than this, every one is checked
_LOCK = threading.Lock()


class JSONConstraint:
    """A rule for one answer of `model`: JSON of `schema`, or any object if None.

    A `sampling.Constraint`: give it to `Conversation.stream`, a new one each time.

    Raises OptionError if the schema cannot be followed, FastVLMError if llguidance is
    not installed.
    """

    def __init__(self, model: "FastVLMModel", schema: Any = None):
        self._vocabulary = llguidance_tokenizer(model)
        self._matcher = import_llguidance().LLMatcher(
            self._vocabulary, grammar_of(schema), log_level=0, limits=limits()
        )
        self._check()
        self._closing = self._ids(_CLOSING)
        self._quote = self._ids('"')
        self._text = self._ids(_TEXT)
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
            # The end token; and after it one that nobody sees.
            return mx.array([self._vocabulary.eos_token])
        token = None
        if self._forced is None:
            token = self._drawn(logits, draw, left)
        if token is None:
            assert self._forced is not None
            token = mx.array([next(self._forced, self._vocabulary.eos_token)])
        self._last = token
        return token

    def _drawn(self, logits: mx.array, draw: Sampler, left: int) -> mx.array | None:
        """A token that leaves room for an end, or None: `_forced` leads there."""
        token = draw(self._masked(logits, self._matcher))
        if self._next_look is not None and left > self._next_look:
            return token
        way = self._way_out(self._matcher)
        spare = left - len(way)
        if spare < 0 and self._next_look is None:
            raise OptionError(
                f"max_tokens {left}: too few for JSON of this schema;"
                f" give at least {len(way)}"
            )
        # One token seldom puts the end much further away.
        self._next_look = left - spare // 8
        if spare > _NEAR:
            return token
        ahead = self._matcher.deep_copy()
        self._consume(ahead, int(token.item()))  # type: ignore
        if ahead.is_stopped() or len(self._way_out(ahead)) < left:
            return token
        self._forced = iter(way)
        return None

    def _way_out(self, matcher: Any) -> list[int]:
        """Tokens that end the answer soon, the end token included."""
        matcher = matcher.deep_copy()
        way: list[int] = []
        latest = time.monotonic() + _PATIENCE
        while len(way) < _LONGEST:
            if time.monotonic() > latest:
                raise schema_error("its end takes too long to find")
            if matcher.is_accepting() or matcher.is_stopped():
                break
            forced = matcher.compute_ff_bytes()
            ids = self._vocabulary.tokenize_bytes(forced) if forced else []
            if not ids:
                ids = [self._step_out(_bits(matcher.compute_bitmask()))]
            for token in ids:
                if not matcher.consume_token(token):
                    return [*way, self._vocabulary.eos_token]
                way.append(token)
        return [*way, self._vocabulary.eos_token]

    def _step_out(self, allowed: np.ndarray) -> int:
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
    Raises FastVLMError if llguidance is not installed.
    """
    llguidance = import_llguidance()
    with _LOCK:
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


def json_constraint(model: Any, schema: Any) -> "JSONConstraint | None":
    """The rule for an answer in JSON of `schema`; None if there is no schema."""
    if schema is None:
        return None
    # Here, not above: an extra of the installation.
    from fastvlm_mlx.generation.constrained import JSONConstraint

    return JSONConstraint(model, schema)
