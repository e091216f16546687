"""Answers to several prompts of one length at once (`batch_generate`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import mlx.core as mx

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.decode import AnswerReader, Decoder
from fastvlm_mlx.generation.logprobs import LogprobRecorder, TokenLogprob
from fastvlm_mlx.generation.sampling import (
    Constraint,
    Sampler,
    Sampling,
    make_sampler,
)
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


@dataclass
class _Row:
    index: int
    reader: AnswerReader
    choose: Sampler
    text: list[str] = field(default_factory=list)


def batch_generate(
    model: "FastVLMModel",
    embeddings: mx.array,
    sampling: Sampling,
    *,
    constraints: Sequence[Constraint] = (),
    top_logprobs: int | None = None,
) -> list[Completion]:
    """Answers B prompts of one length; each answer is what `stream_generate` gives.

    The rows share one KV cache. A row whose answer has ended is removed from it.

    Args:
        model: the model.
        embeddings: the prompts, (B, L, hidden), L at least 1; see `FastVLMModel.embed`.
        sampling: how tokens are chosen, the same for all rows; a `seed` gives each
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
    if not count:
        return []
    rows = [
        _Row(
            index,
            AnswerReader(model.tokenizer, sampling, constraint),
            make_sampler(sampling, constraint),
        )
        for index, constraint in enumerate(constraints or [None] * count)
    ]
    # All rows at once where no row has a state of its own.
    penalized = sampling.repetition_penalty not in (None, 1)
    plain = sampling.is_greedy and not penalized and not constraints

    def choose(logits: mx.array) -> mx.array:
        if plain:
            tokens = mx.argmax(logits, axis=-1)
        else:
            # (B, vocab) -> B times (1,) -> (B,)
            chosen = [row.choose(logits[i : i + 1]) for i, row in enumerate(rows)]
            tokens = mx.concatenate(chosen)
        mx.async_eval(tokens)
        return tokens

    recorder = None
    sampler: Sampler = choose
    if top_logprobs is not None:
        recorder = LogprobRecorder(model.tokenizer, top_logprobs, constraints)
        sampler = recorder.watch(choose)
    cache = language.make_cache(model.language_model)
    decoder = Decoder(model, cache)
    completions: dict[int, Completion] = {}
    logits = decoder.prefill(embeddings)
    for tokens in decoder.tokens(logits, sampler, sampling.max_tokens):
        going: list[int] = []
        logprobs = recorder.pop() if recorder else [None] * len(rows)
        for position, token in enumerate(cast(list[int], tokens.tolist())):
            row = rows[position]
            row.text.append(row.reader.push(token, logprobs[position]))
            if row.reader.finish_reason is None:
                going.append(position)
            else:
                completions[row.index] = Completion(
                    "".join(row.text),
                    tuple(row.reader.tokens),
                    row.reader.finish_reason,
                    tuple(row.reader.logprobs) if recorder else None,
                )
        if not going:
            break
        if len(going) < len(rows):
            rows = [rows[position] for position in going]
            decoder.keep_rows(going)
            if recorder:
                recorder.keep_rows(going)
    return [completions[index] for index in range(count)]
