"""Sampling options, and the samplers that choose the next token from the logits."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from fastvlm_mlx.errors import OptionError

# How many of the answer's last tokens the repetition penalty looks at. The prompt
# does not count: as in the reference, it is embeddings and has no ids.
REPETITION_CONTEXT_SIZE = 64
# A float32 logit divided by a smaller temperature may be infinite: greedy instead.
MIN_TEMPERATURE = 1e-3
# Less is 0 in float32, and then no token would be left: greedy instead.
MIN_TOP_P = 1e-30
# Factors beyond these make infinities of float32 logits, and NaN of those.
_FACTORS = (1e-30, 1e30)


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when an answer ends.

    - `temperature`: 0 is greedy, as is anything below 0.001 (logits divided by it
      could overflow); the other choices but `repetition_penalty` then have no effect.
    - `top_p`: keep the likeliest tokens up to this probability; 1 is off, 0 is greedy,
      as is anything below 1e-30.
    - `top_k`: keep this many of the likeliest tokens; 0 is off.
    - `min_p`: keep tokens at least this likely relative to the likeliest; 0 is off.
    - `repetition_penalty`: divides the logits of recent tokens; None or 1 is off.
    - `seed`: 0 to 2**32 - 1 makes sampling repeatable; None draws one.
    - `max_tokens`: an answer's length at most.
    - `stop`: texts that end the answer and are not part of it; an answer with a
      constraint, such as JSON of a schema, ends by itself.
    - `ignore_eos`: stop tokens do not end the answer; for benchmarks.

    Raises:
        OptionError: a value cannot be honoured.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int = 512
    stop: Sequence[str] = ()
    ignore_eos: bool = False

    def __post_init__(self):
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        try:
            object.__setattr__(self, "stop", tuple(stop))
        except TypeError:
            raise OptionError(
                f"stop {stop!r:.200}: give texts, such as ['END']"
            ) from None
        if not all(isinstance(text, str) and text for text in self.stop):
            raise OptionError(
                f"stop {list(self.stop)!r:.200}: give texts that are not empty"
            )
        self._check("temperature", float, 0, math.inf, "0 is greedy, 0.7 is lively")
        self._check("top_p", float, 0, 1, "1 is off")
        self._check("top_k", int, 0, math.inf, "0 is off")
        self._check("min_p", float, 0, 1, "0 is off")
        self._check("max_tokens", int, 1, math.inf, "512 is usual")
        if self.repetition_penalty is not None:
            self._check(
                "repetition_penalty", float, 0, math.inf, "1 is off", above=True
            )
        if self.seed is not None:
            self._check("seed", int, 0, 2**32 - 1, "any whole number there will do")
        if not isinstance(self.ignore_eos, bool):
            raise OptionError(
                f"ignore_eos {self.ignore_eos!r:.200}: must be True or False"
            )

    @property
    def is_greedy(self) -> bool:
        """Whether the token with the largest logit is always taken."""
        return self.temperature < MIN_TEMPERATURE or self.top_p < MIN_TOP_P

    def _check(
        self,
        name: str,
        kind: type,
        low: float,
        high: float,
        hint: str,
        *,
        above: bool = False,
    ):
        value = getattr(self, name)
        allowed = (int, float) if kind is float else int
        if (
            isinstance(value, bool)
            or not isinstance(value, allowed)
            or not low <= value <= high
            or _is_infinite(value)
            or (above and value == low)
        ):
            number = "a number" if kind is float else "a whole number"
            bounds = f"above {low}" if above else f"at least {low}"
            if not math.isinf(high):
                bounds += f", at most {high}"
            elif isinstance(value, int) and _is_infinite(value):
                bounds += " and of fewer than 309 digits"
            raise OptionError(
                f"{name} {_shown(value)}: must be {number} {bounds}; {hint}"
            )


def _is_infinite(value: float) -> bool:
    try:
        return math.isinf(value)
    except OverflowError:  # a whole number larger than any float
        return True


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4,300 digits
        return "of thousands of digits"
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"


Sampler = Callable[[mx.array], mx.array]  # logits (1, vocab) -> a token (1,)


class Constraint(Protocol):
    """A rule for the form of one answer; see `constrained.py`."""

    def choose(self, logits: mx.array, draw: Sampler, left: int) -> mx.array:
        """The next token, drawn from what the rule allows.

        The token it chose before is part of the answer by now. `left` tokens at most
        are still to come, this one included.
        """
        ...

    def allowed(self, logits: mx.array) -> mx.array:
        """`logits` (1, vocab), -inf where `choose` could not take a token just now."""
        ...


def make_sampler(sampling: Sampling, constraint: Constraint | None = None) -> Sampler:
    """A function from logits `(1, vocab)` to a token `(1,)` whose computing has begun.

    Nothing lazy is left behind: since MLX 0.31.2 only the thread that described an
    array can compute it, and a server may take each chunk from another thread.
    """
    penalty = sampling.repetition_penalty or 1.0
    draw = _make_draw(sampling)
    recent = mx.array([], mx.uint32)
    left = sampling.max_tokens

    def choose(logits: mx.array) -> mx.array:
        nonlocal recent, left
        if penalty != 1 and recent.size:
            logits = apply_repetition_penalty(logits, recent, penalty)
        if constraint is None:
            token = draw(logits)
        else:
            token = constraint.choose(logits, draw, left)
        left -= 1
        if penalty != 1:
            recent = mx.concatenate([recent, token])[-REPETITION_CONTEXT_SIZE:]
        mx.async_eval(token, recent)
        return token

    return choose


def _make_draw(sampling: Sampling) -> Sampler:
    if sampling.is_greedy:
        # No log-probabilities: the largest logit is the same without them.
        return lambda logits: mx.argmax(logits, axis=-1)
    seed = sampling.seed
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    steps, temperature = 0, sampling.temperature

    def draw(logits: mx.array) -> mx.array:
        nonlocal steps
        # A key for each step, not mx.random's state, which belongs to all of a thread.
        key = mx.random.key(seed << 32 | steps)
        steps += 1
        logits = apply_filters(logits, sampling) / min(temperature, _FACTORS[1])
        return mx.random.categorical(logits, key=key)

    return draw


# The next two do what their namesakes in mlx_lm.sample_utils do. Those cannot be used
# here: they are compiled, which on the CPU runs a C++ compiler for seconds before the
# first token, and make_sampler draws from a thread's random state, which aborts the
# process at its end if the thread is not the main one (mlx-lm 0.32.2, MLX 0.32.4).


def apply_filters(logits: mx.array, sampling: Sampling) -> mx.array:
    """Log-probabilities `(1, vocab)` in float32, -inf where `sampling` forbids."""
    logits = logits.astype(mx.float32)
    logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    if sampling.top_p < 1:
        ascending = mx.sort(logits, axis=-1)
        likelier = mx.cumsum(mx.exp(ascending), axis=-1, reverse=True, inclusive=False)
        kept = mx.where(likelier < sampling.top_p, ascending, math.inf)
        logits = _at_least(kept.min(axis=-1, keepdims=True), logits)
    if sampling.min_p > 0:
        best = logits.max(axis=-1, keepdims=True)
        logits = _at_least(best + math.log(sampling.min_p), logits)
    if 0 < sampling.top_k < logits.shape[-1]:
        best = mx.topk(logits, sampling.top_k, axis=-1)
        logits = _at_least(best.min(axis=-1, keepdims=True), logits)
    return logits


def apply_repetition_penalty(
    logits: mx.array, recent: mx.array, penalty: float
) -> mx.array:
    """`logits` `(1, vocab)` in float32, those of the ids `recent` made less likely."""
    low, high = _FACTORS
    penalty = min(max(penalty, low), high)
    logits = logits.astype(mx.float32)
    chosen = logits[:, recent]
    chosen = mx.where(chosen < 0, chosen * penalty, chosen / penalty)
    return mx.put_along_axis(logits, recent[None], chosen, axis=-1)


def _at_least(threshold: mx.array, logits: mx.array) -> mx.array:
    return mx.where(logits < threshold, -math.inf, logits)
