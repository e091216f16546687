"""Answers to several prompts at once (`batch_generate`), or to any number of them in
order (`complete`)."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, cast

import mlx.core as mx

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.batch_decoder import BatchDecoder, Row
from fastvlm_mlx.generation.decode import whole
from fastvlm_mlx.generation.logprobs import TokenLogprob
from fastvlm_mlx.generation.sampling import Constraint, Sampling
from fastvlm_mlx.model import language

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

Fault = TypeVar("Fault")

# An answer that ended early waits for those before it. So many times as many answers
# as are decoded together are begun at most, and lost if the work is interrupted.
_BEGUN = 2


@dataclass(frozen=True)
class Prompt:
    """What is to be answered.

    - `embeddings`: (1, L, hidden), L at least 1; see `FastVLMModel.embed`.
    - `sampling`: how the tokens are chosen.
    - `constraint`: a rule for the form of the answer, or None.
    """

    embeddings: mx.array
    sampling: Sampling
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Completion:
    """One answer of a batch.

    - `text`: without the stop sequence that ended it.
    - `tokens`: its ids, without the stop token.
    - `finish_reason`: "stop" or "length".
    - `logprobs`: None unless asked for; of the tokens of which text is shown.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    logprobs: tuple[TokenLogprob, ...] | None = None


def batch_generate(
    model: "FastVLMModel",
    embeddings: mx.array | Sequence[mx.array],
    sampling: Sampling | Sequence[Sampling],
    *,
    constraints: Sequence[Constraint] = (),
    top_logprobs: int | None = None,
) -> list[Completion]:
    """Answers B prompts; each answer is what `stream_generate` gives.

    The answers to all of them are decoded together; see `complete`.

    Args:
        model: the model.
        embeddings: the prompts, (B, L, hidden), or B times (1, L, hidden) where their
            lengths differ; L at least 1; see `FastVLMModel.embed`.
        sampling: how tokens are chosen, for all rows or for each; a `seed` gives each
            row the same random numbers.
        constraints: none, or a rule for the form of each answer.
        top_logprobs: 0 to 20 fills `Completion.logprobs`, each with so many likely
            tokens.
    Returns:
        One completion for each row, in order.
    Raises:
        OptionError: `constraints` is not one for each row.
    """
    count = len(embeddings)
    if constraints and len(constraints) != count:
        raise OptionError(
            f"constraints: {len(constraints)} for {count} prompts; give none, or one"
            " for each"
        )
    options = [sampling] * count if isinstance(sampling, Sampling) else sampling
    rows = [
        Prompt(embeddings[at : at + 1], *each)
        if isinstance(embeddings, mx.array)
        else Prompt(embeddings[at], *each)
        for at, each in enumerate(
            zip(options, constraints or [None] * count, strict=True)
        )
    ]
    found = complete(model, rows, size=max(count, 1), top_logprobs=top_logprobs)
    return [cast(Completion, each) for each in found]


def complete(
    model: "FastVLMModel",
    prompts: Iterable[Prompt | Fault],
    *,
    size: int,
    top_logprobs: int | None = None,
) -> Iterator[Completion | Fault]:
    """Answers any number of prompts, in order; each answer is what `stream_generate`
    gives.

    Where an answer has ended, the next prompt takes its place; prompts of one length
    that begin at the same time are prefilled together.

    Args:
        model: the model.
        prompts: read as they are needed. What is no `Prompt`, such as the reason why
            there is none, is given back in its place.
        size: how many answers are decoded together.
        top_logprobs: as for `batch_generate`.
    Raises:
        OptionError: a constraint cannot be followed.
    """
    decoder = BatchDecoder(model)
    rest = iter(prompts)
    begun: deque[_Answer | Fault] = deque()  # not yet given back, in order
    going: list[_Answer] = []
    while True:
        room = min(size - len(going), size * _BEGUN - len(begun))
        joining: list[tuple[Row, mx.array]] = []
        for each in islice(rest, room):
            if isinstance(each, Prompt):
                answer = _Answer(model, each, top_logprobs)
                joining.append((answer.row, each.embeddings))
                going.append(answer)
                begun.append(answer)
            else:
                begun.append(each)
        _prefill(decoder, joining)
        if not begun:
            return
        # One step of all: the first of them makes it, the others have it in store.
        for answer in going:
            answer.step(decoder)
        going = [answer for answer in going if answer.completion is None]
        while begun:
            first = begun[0]
            if isinstance(first, _Answer):
                if first.completion is None:
                    break
                first = first.completion
            begun.popleft()
            yield first


class _Answer:
    """An answer under way; `completion` is None until it has ended."""

    def __init__(self, model: "FastVLMModel", prompt: Prompt, top_logprobs: int | None):
        cache = language.make_cache(model.language_model)
        self.row = Row(model, cache, prompt.sampling, prompt.constraint, top_logprobs)
        self.completion: Completion | None = None
        self._texts: list[str] = []

    def step(self, decoder: BatchDecoder) -> None:
        """Takes the next step."""
        row = self.row
        step = decoder.next(row)
        self._texts.append(step.text)
        if step.finish_reason is None:
            return
        self.completion = Completion(
            "".join(self._texts),
            tuple(row.reader.tokens),
            step.finish_reason,
            None if row.recorder is None else tuple(row.reader.logprobs),
        )
        del self.row  # its KV cache is not kept while it waits for others


def _prefill(decoder: BatchDecoder, joining: Sequence[tuple[Row, mx.array]]) -> None:
    """Lets rows join with their prompts, those of one length together."""
    groups: dict[int, list[tuple[Row, mx.array]]] = {}
    for row, embeddings in joining:
        groups.setdefault(embeddings.shape[1], []).append((row, embeddings))
    for group in groups.values():
        rows = [row for row, _ in group]
        prompts = mx.concatenate([embeddings for _, embeddings in group])
        decoder.join(rows, whole(decoder.prefill(rows, prompts)))
