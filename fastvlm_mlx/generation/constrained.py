"""Constrained decoding to JSON or a JSON schema (llguidance).

llguidance says which tokens may come next, but not how to end in time. A token after
which the shortest completion would not fit into max_tokens is not taken: the answer
is completed instead, so the output always parses.

Needs llguidance, of the extra `serve`.
"""

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.completion import JSONState
from fastvlm_mlx.generation.json_schema import (
    grammar_of,
    import_llguidance,
    limits,
    schema_error,
)
from fastvlm_mlx.generation.sampling import Sampler
from fastvlm_mlx.generation.vocabulary import Spelling, Vocabulary

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

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
        grammar = grammar_of(schema)
        self._matcher = import_llguidance().LLMatcher(
            self._vocabulary.tokenizer, grammar, log_level=0, limits=limits()
        )
        self._check()
        self._state = JSONState.start(schema, grammar)
        self._end: Spelling | None = None  # a completion of `_state`
        self._end_start = 0  # where in its text it begins
        self._last: mx.array | None = None
        self._forced: Iterator[int] | None = None

    def choose(self, logits: mx.array, draw: Sampler, left: int) -> mx.array:
        """See `sampling.Constraint`."""
        mx.async_eval(logits)  # the model computes while the mask is found
        if self._last is not None:
            self._matcher.consume_token(int(self._last.item()))  # type: ignore
            self._check()
            self._last = None
        if self._forced is None and self._end is None:
            self._look_at_whole(left)
        if self._matcher.is_stopped():
            # The end token; the look-ahead asks once more after it.
            return mx.array([self._vocabulary.end])
        token = None
        if self._forced is None:
            token = draw(self._masked(logits, self._matcher))
            if not self._leaves_room(int(token.item()), left):  # type: ignore
                assert self._end is not None
                self._forced = iter(self._end.tokens(self._end_start))
                token = None
        if token is None:
            assert self._forced is not None
            token = mx.array([next(self._forced, self._vocabulary.end)])
        self._last = token
        return token

    def allowed(self, logits: mx.array) -> mx.array:
        """See `sampling.Constraint`."""
        if self._matcher.is_stopped():
            is_end = mx.arange(logits.shape[-1]) == self._vocabulary.end
            return mx.where(is_end, logits, -mx.inf)
        # The matcher takes in a token when the next one is chosen.
        return self._masked(logits, self._matcher)

    def _look_at_whole(self, left: int):
        """Finds the shortest answer of all, which must fit into `left` tokens."""
        self._end = self._shortest(self._state)
        if self._end is None:
            raise schema_error("its shortest answer takes too long to find")
        needed = self._end.counts[0] + 1
        if needed > left:
            raise OptionError(
                f"max_tokens {left}: too few for JSON of this schema;"
                f" give at least {needed}"
            )

    def _leaves_room(self, token: int, left: int) -> bool:
        """Takes note of `token` if the answer can be completed in time after it."""
        if self._vocabulary.is_end(token):
            return True
        assert self._end is not None
        text = self._vocabulary.text(token)
        state = self._state.after(text)
        end, start = self._end, self._end_start
        if end.text.startswith(text, start):
            start += len(text)
        elif not state.completes(end.text[start:]):
            start = -1
        # A completion that is known to be one spares the search for the shortest.
        if start < 0 or end.counts[start] + 1 >= left:
            end, start = self._shortest(state), 0
            if end is None or end.counts[0] + 1 >= left:
                return False
        self._state, self._end, self._end_start = state, end, start
        return True

    def _shortest(self, state: JSONState) -> Spelling | None:
        """The shortest completion of `state`, without the end token."""
        text = state.shortest_completion(self._vocabulary.alphabet)
        return None if text is None else self._vocabulary.spell(text)

    def _masked(self, logits: mx.array, matcher: Any) -> mx.array:
        words = np.frombuffer(matcher.compute_bitmask(), np.uint32)
        self._check()
        # [vocab / 32] -> [vocab], unpacked by MLX: a 32nd of the bytes to hand over
        bits = (mx.array(words)[:, None] >> mx.arange(32, dtype=mx.uint32)) & 1
        allowed = bits.flatten()[: logits.shape[-1]].astype(mx.bool_)
        return mx.where(allowed, logits, -mx.inf)

    def _check(self):
        if self._matcher.is_error():
            raise schema_error(self._matcher.get_error())


def llguidance_tokenizer(model: "FastVLMModel") -> Vocabulary:
    """`model`'s tokenizer as llguidance's and its tokens' bytes, made on first use.

    That takes seconds with a large vocabulary; a server calls it ahead of time.

    Raises:
        FastVLMError: llguidance is not installed.
    """
    llguidance = import_llguidance()
    with _TOKENIZER_LOCK:
        if model.llguidance_tokenizer is None:
            tokenizer, text = model.tokenizer, model.config.text
            assert text is not None  # a model that generates text has one
            model.llguidance_tokenizer = Vocabulary(
                llguidance.LLTokenizer(
                    tokenizer.to_json(),
                    n_vocab=text.vocab_size,
                    eos_token=sorted(tokenizer.stop_ids),
                    slices=llguidance.LLTokenizer.json_slices(),
                )
            )
        return model.llguidance_tokenizer


def json_constraint(model: "FastVLMModel", schema: Any) -> JSONConstraint | None:
    """The constraint to JSON of `schema`; None if there is no schema."""
    return None if schema is None else JSONConstraint(model, schema)
