"""Which of several given answers a model would give, and how likely each is.

All tokens of every choice are scored after one prompt, which is computed once. A choice
is scored with the end of its answer, so that "cat" is the answer that ends there and
not the beginning of "caterpillar".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from fastvlm_mlx.conversation.answer import answer_room
from fastvlm_mlx.conversation.attachment import ImageSource, attach, length
from fastvlm_mlx.conversation.history import History, Turn
from fastvlm_mlx.conversation.shared_prefix import restore_prefix, save_prefix
from fastvlm_mlx.errors import ContextError, OptionError
from fastvlm_mlx.generation import decode
from fastvlm_mlx.generation.decode import KVCache, RowCache
from fastvlm_mlx.model import language
from fastvlm_mlx.processing.image_options import ImageOptions

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel
    from fastvlm_mlx.processing.tokenizer import Tokenizer

MAX_CHOICES = 1000
# Choices that are scored together, and the bytes of their copies of the prompt's cache.
_ROWS, _COPIES = 16, 256 << 20
# Places that are multiplied with the vocabulary together.
_PLACES = 64
_END = -1  # in place of an id: any token that ends an answer


@dataclass(frozen=True)
class Choice:
    """The likeliest of several given answers, and the numbers of all of them.

    - `answer`: the likeliest choice; of equals the first.
    - `choices`: all of them as given, blanks around them cut off.
    - `probabilities`: in the order of the choices, relative to one another: their sum
      is 1.
    - `logprobs`: for each choice the natural logarithm of the probability that the
      model answers just this and ends there, at temperature 1: the sum over its
      tokens. These do not depend on the other choices; if all are low, the model
      would rather have said something else.
    - `token_counts`: the tokens of each, the one that ends it included.
    """

    answer: str
    choices: tuple[str, ...]
    probabilities: tuple[float, ...]
    logprobs: tuple[float, ...]
    token_counts: tuple[int, ...]


def choose_answer(
    model: "FastVLMModel",
    state: History,
    question: str,
    images: Sequence[ImageSource],
    choices: Sequence[str],
    *,
    context_size: int,
    image_options: ImageOptions,
    normalize: bool = False,
) -> Choice:
    """Scores `choices` as answers to `question`, which `images` join.

    The question and the likeliest choice are in `state` afterwards, as if the model
    had answered so; after an error `state` is as it was.

    Raises:
        OptionError: the choices cannot be told apart, or there are too few or many.
        ImageError: an image cannot be opened.
        ContextError: the question does not fit, or the longest choice.
    """
    texts = check_choices(choices)
    ids = _encode(model.tokenizer, texts)
    joining = [*state.waiting, *(attach(model, one, image_options) for one in images)]
    used = length(state.pieces)
    pieces = state.with_question(question, joining)
    room = answer_room(pieces, used, context_size)
    longest = max(range(len(ids)), key=lambda at: len(ids[at]))
    if len(ids[longest]) > room:
        raise ContextError(
            f"the choice {texts[longest]!r:.60} needs {len(ids[longest])} tokens of"
            f" context and {room} are left after the question; shorten it, or give"
            " fewer or smaller images"
        )
    if is_first := decode.cache_length(state.cache) == 0:
        restore_prefix(model.feature_cache, pieces, state.cache)
    row = RowCache(state.cache)
    try:
        logits = decode.whole(decode.prefill(model, state.missing(pieces), [row]))
        mx.eval(logits)
        if is_first:
            save_prefix(model.feature_cache, pieces, state.cache)
        rows = _rows_at_once(state.cache, len(ids[longest]))
        logprobs = [
            logprob
            for at in range(0, len(ids), rows)
            for logprob in _score(model, state.cache, logits, ids[at : at + rows])
        ]
    except BaseException:
        row.rewind(used)
        raise
    counts = tuple(len(one) + 1 for one in ids)
    scores = [
        logprob / count if normalize else logprob
        for logprob, count in zip(logprobs, counts, strict=True)
    ]
    best = max(range(len(scores)), key=lambda at: scores[at])
    state.add(
        Turn("user", question, tuple(joining)),
        pieces,
        Turn("assistant", texts[best], (), tuple(ids[best]), "stop"),
    )
    probabilities = _softmax(scores)
    return Choice(texts[best], texts, probabilities, tuple(logprobs), counts)


def check_choices(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices without the blanks around them.

    Raises:
        OptionError: they are no texts, or too few or many, or empty, or not distinct.
    """
    if isinstance(choices, str) or not isinstance(choices, Sequence):
        raise OptionError(
            f"choices {choices!r:.60}: give a list of texts, such as ['yes', 'no']"
        )
    texts: list[str] = []
    for number, choice in enumerate(choices, start=1):
        if not isinstance(choice, str):
            raise OptionError(f"choices: number {number} is {choice!r:.60}; give texts")
        if not choice.strip():
            raise OptionError(
                f"choices: number {number} is empty; remove it, or name it, such as"
                " 'none'"
            )
        texts.append(choice.strip())
    if len(texts) < 2:
        given = f"{texts[0]!r:.60} alone" if texts else "none"
        raise OptionError(f"choices: {given}; give two or more, such as 'yes' and 'no'")
    if len(texts) > MAX_CHOICES:
        raise OptionError(
            f"choices: {len(texts)}; at most {MAX_CHOICES} can be scored at once"
        )
    for number, text in enumerate(texts):
        if text in texts[:number]:
            raise OptionError(f"choices: {text!r:.60} is there twice; remove one")
    return tuple(texts)


def _encode(tokenizer: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = []
    for text in texts:
        tokens = tokenizer.encode(text)
        if not tokens:
            raise OptionError(
                f"choices: {text!r:.60} has no token in this model; write it otherwise"
            )
        if tokens in ids:  # as of one character in two normal forms
            raise OptionError(
                f"choices: {text!r:.60} and {texts[ids.index(tokens)]!r:.60} are the"
                " same tokens; remove one"
            )
        ids.append(tokens)
    return ids


def _rows_at_once(cache: KVCache, longest: int) -> int:
    """How many choices of `longest` tokens are scored together after a prompt."""
    prompt = decode.cache_length(cache)
    # `nbytes` counts room that is not used yet; a little less is copied.
    each = sum(layer.nbytes for layer in cache) * (prompt + longest) // prompt
    return min(max(_COPIES // each, 1), _ROWS)


def _score(
    model: "FastVLMModel", cache: KVCache, first: mx.array, rows: list[list[int]]
) -> list[float]:
    """The log-probability of each row of ids and the end after it.

    Args:
        model: the model.
        cache: the prompt's, which is left as it is.
        first: the logits after the prompt, (1, vocab).
        rows: B lists of ids.
    """
    count, size = len(rows), max(map(len, rows))
    ids = np.zeros((count, size), np.int32)  # what pads a row stands behind its end
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    copies = language.make_cache(model.language_model)
    prompt = decode.cache_length(cache)
    for mine, layer in zip(copies, cache, strict=True):
        halves = (layer.keys[..., :prompt, :], layer.values[..., :prompt, :])
        keys, values = (mx.repeat(half, count, axis=0) for half in halves)
        mine.state = (keys, values, prompt)
    states = language.hidden(
        model.language_model, model.embed_tokens(mx.array(ids)), copies
    )
    # Only the places that count are multiplied with the vocabulary: those of ids that
    # another follows, or the end.
    places = [(row, at) for row, tokens in enumerate(rows) for at in range(len(tokens))]
    following = [[*tokens[1:], _END] for tokens in rows]
    states = states[tuple(mx.array(each) for each in zip(*places, strict=True))]
    targets = mx.array([following[row][at] for row, at in places])
    parts = [_likelihoods(model, first, mx.array([tokens[0] for tokens in rows]))]
    parts += [
        _likelihoods(
            model,
            language.head(model.language_model, states[at : at + _PLACES]),
            targets[at : at + _PLACES],
        )
        for at in range(0, len(places), _PLACES)
    ]
    values = np.concatenate(parts)
    scores = values[:count].copy()
    np.add.at(scores, [row for row, _ in places], values[count:])
    return scores.tolist()


def _likelihoods(
    model: "FastVLMModel", logits: mx.array, targets: mx.array
) -> np.ndarray:
    """The log-probability of each target, or of an end where it is `_END`.

    Shapes:
        logits: (N, vocab), or (1, vocab) for all; targets: (N,); returns (N,)
    """
    logits = logits.astype(mx.float32)
    total = mx.logsumexp(logits, axis=-1)
    # Any of the stop tokens ends an answer.
    ends = mx.array(sorted(model.tokenizer.stop_ids))
    end = mx.logsumexp(logits[:, ends], axis=-1)
    rows = mx.arange(len(targets)) if len(logits) > 1 else mx.zeros_like(targets)
    said = logits[rows, mx.maximum(targets, 0)]
    found = mx.where(targets == _END, end[rows], said) - total[rows]
    return np.array(found, np.float64)


def _softmax(scores: Sequence[float]) -> tuple[float, ...]:
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)
