"""Answers to several prompts at once (`batch_generate`)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.batch_decoder import BatchDecoder, Row
from fastvlm_mlx.generation.decode import whole
from fastvlm_mlx.generation.logprobs import TokenLogprob
from fastvlm_mlx.generation.sampling import Constraint, Sampling
from fastvlm_mlx.model import language

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel


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

    Prompts of one length are prefilled together, and the answers to all of them are
    decoded together. A row whose answer has ended leaves.

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
        Row(model, language.make_cache(model.language_model), *each, top_logprobs)
        for each in zip(options, constraints or [None] * count, strict=True)
    ]
    decoder = BatchDecoder(model)
    for at, prompts in _by_length(embeddings):
        together = [rows[i] for i in at]
        logits = whole(decoder.prefill(together, prompts))
        decoder.join(together, logits)
    texts: list[list[str]] = [[] for _ in rows]
    going = list(range(count))
    while going:
        # One step of all: the first of them makes it, the others have it in store.
        steps = {index: decoder.next(rows[index]) for index in going}
        for index, step in steps.items():
            texts[index].append(step.text)
        going = [index for index, step in steps.items() if step.finish_reason is None]
    return [
        Completion(
            "".join(text),
            tuple(row.reader.tokens),
            row.reader.finish_reason or "",
            None if top_logprobs is None else tuple(row.reader.logprobs),
        )
        for row, text in zip(rows, texts, strict=True)
    ]


def _by_length(
    embeddings: mx.array | Sequence[mx.array],
) -> Iterator[tuple[list[int], mx.array]]:
    """The prompts of each length, (B, L, hidden), with their places."""
    if isinstance(embeddings, mx.array):
        if len(embeddings):
            yield list(range(len(embeddings))), embeddings
        return
    groups: dict[int, list[int]] = {}
    for index, each in enumerate(embeddings):
        groups.setdefault(each.shape[1], []).append(index)
    for indices in groups.values():
        yield indices, mx.concatenate([embeddings[index] for index in indices])
