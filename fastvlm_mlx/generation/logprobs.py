"""Log-probabilities of an answer's tokens and of the likeliest tokens beside them.

They are those of the model's raw distribution: at temperature 1, before the repetition
penalty, top_p, top_k and min_p. Where a constraint such as a JSON schema allows some
tokens only, the distribution is that over these, and sums to 1 over them.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.sampling import Constraint, Sampler

if TYPE_CHECKING:
    from fastvlm_mlx.processing.tokenizer import Tokenizer

MAX_TOP = 20  # as in OpenAI's and Ollama's protocols


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural log-probability.

    - `token`: its id.
    - `text`: its text, U+FFFD for part of a character; of a control token its name.
    - `utf8`: the bytes it adds to the answer, maybe part of a character; None of a
      control token.
    - `logprob`: of the raw distribution, at temperature 1 and before top_p and the
      like; with a constraint over the tokens that it allowed.
    - `top`: the likeliest tokens in this place, likeliest first; fewer than asked for
      if no more were allowed. Empty for these tokens themselves.
    """

    token: int
    text: str
    utf8: bytes | None
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


def check_top_logprobs(top: int | None):
    """Refuses a `top_logprobs` that cannot be honoured.

    Raises:
        OptionError: it is neither None nor 0 to 20.
    """
    if top is None:
        return
    if isinstance(top, bool) or not isinstance(top, int) or not 0 <= top <= MAX_TOP:
        raise OptionError(
            f"top_logprobs {top!r:.60}: must be a whole number at least 0, at most"
            f" {MAX_TOP}; None is off"
        )


class LogprobRecorder:
    """Records the log-probabilities of what a sampler chooses, for B rows at once.

    Args:
        tokenizer: gives the tokens' texts.
        top: how many of the likeliest tokens to list, 0 to 20.
        constraints: none, or of each row its own or None.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        top: int,
        constraints: Sequence[Constraint | None] = (),
    ):
        self._tokenizer = tokenizer
        self._top = top
        is_free = all(constraint is None for constraint in constraints)
        self._constraints = () if is_free else constraints
        self._first = True  # the next step that is read
        # On a GPU the decode loop chooses one step ahead of what is read.
        self._steps: deque[tuple[mx.array, ...]] = deque()

    def watch(self, choose: Sampler) -> Sampler:
        """`choose`, (B, vocab) to ids (B,), whose choices are recorded from now on."""

        def watched(logits: mx.array) -> mx.array:
            tokens = choose(logits)
            self._steps.append(self._describe(logits, tokens))
            return tokens

        return watched

    def pop(self) -> list[TokenLogprob]:
        """The oldest recorded step, removed: one token for each row."""
        ids, values, top_ids, top_values = (
            array.tolist() for array in self._steps.popleft()
        )
        entries = [
            self._with_top(*row)
            for row in zip(
                cast(list[int], ids),
                cast(list[float], values),
                cast(list[list[int]], top_ids),
                cast(list[list[float]], top_values),
                strict=True,
            )
        ]
        self._first = False
        return entries

    def _describe(self, logits: mx.array, tokens: mx.array) -> tuple[mx.array, ...]:
        if self._constraints:
            rows = [
                logits[i : i + 1] if one is None else one.allowed(logits[i : i + 1])
                for i, one in enumerate(self._constraints)
            ]
            logits = mx.concatenate(rows)
        logprobs = logits.astype(mx.float32)
        logprobs = logprobs - mx.logsumexp(logprobs, axis=-1, keepdims=True)
        chosen = mx.take_along_axis(logprobs, tokens[:, None], axis=-1)[:, 0]
        top = min(self._top, logprobs.shape[-1])
        if top:
            ids = mx.argpartition(logprobs, -top, axis=-1)[:, -top:]
        else:
            ids = mx.zeros((len(tokens), 0), mx.uint32)
        step = (tokens, chosen, ids, mx.take_along_axis(logprobs, ids, axis=-1))
        # Nothing lazy may be left behind for another thread: see `make_sampler`.
        mx.async_eval(*step)
        return step

    def _with_top(
        self, token: int, value: float, ids: list[int], values: list[float]
    ) -> TokenLogprob:
        listed = {
            id: other
            for id, other in zip(ids, values, strict=True)
            if other > -float("inf")
        }
        if listed and token not in listed and value >= min(listed.values()):
            # Of several that are as likely the partition took others.
            listed.pop(min(listed, key=lambda id: (listed[id], -id)))
            listed[token] = value
        order = sorted(listed, key=lambda id: (-listed[id], id != token, id))
        top = tuple(self._entry(id, listed[id]) for id in order)
        return self._entry(token, value, top)

    def _entry(
        self, token: int, value: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        utf8 = self._tokenizer.token_bytes(token, first=self._first)
        if utf8:
            text = utf8.decode("utf-8", "replace")
        else:
            text = self._tokenizer.name(token)
        return TokenLogprob(token, text, utf8 or None, value, top)
