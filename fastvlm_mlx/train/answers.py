"""What a model answers to the questions of rows, with the features that were kept.

The questions are asked greedily, each after the right answers of the turns before it.
With `hidden` a gray image stands in place of every image: a model that learned to look
then falls back to guessing.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event

import mlx.core as mx
import numpy as np

from fastvlm_mlx.errors import CheckpointError, ContextError
from fastvlm_mlx.generation.batch import batch_generate
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.train.data.batches import Features, make_batch
from fastvlm_mlx.train.data.rows import Row
from fastvlm_mlx.train.data.samples import Image
from fastvlm_mlx.train.loss import embeddings

GRAY = 0.5


@dataclass(frozen=True)
class Question:
    """Where a question ends in a row, and how many tokens its right answer has."""

    row: Row
    length: int
    answer_tokens: int


def questions(rows: Sequence[Row]) -> list[Question]:
    """Every question of every row, in order."""
    return [each for row in rows for each in _questions(row)]


def _questions(row: Row) -> Iterator[Question]:
    # The positions of an answer follow one another; between two answers is a question.
    breaks = np.flatnonzero(np.diff(row.positions) != 1) + 1
    for part in np.split(row.positions, breaks):
        yield Question(row, int(part[0]) + 1, len(part))


def ask(
    model: FastVLMModel,
    asked: Sequence[Question],
    features: Features,
    *,
    hidden: mx.array | None = None,
    batch: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: Event | None = None,
) -> list[str]:
    """The answers of `model`, in order; none is much longer than the longest right one.

    Args:
        model: the model, with its adapter's layers on it or without.
        asked: the questions.
        features: where the features of their images are read.
        hidden: (tokens, width), shown in place of every image; see `gray_features`.
        batch: questions of one length that are answered together.
        on_progress: called with (questions done, questions in all).
        cancel: once set, ends it with KeyboardInterrupt between two batches.
    """
    shown = features if hidden is None else _Hidden(features, asked, hidden)
    longest = max((question.answer_tokens for question in asked), default=0)
    answers = [""] * len(asked)
    groups: dict[int, list[int]] = {}
    for index, question in enumerate(asked):
        groups.setdefault(question.length, []).append(index)
    done = 0
    for length, indices in sorted(groups.items()):
        for at in range(0, len(indices), batch):
            if cancel is not None and cancel.is_set():
                raise KeyboardInterrupt
            part = indices[at : at + batch]
            texts = _answer(
                model, [asked[i] for i in part], shown, length, longest * 3 // 2 + 8
            )
            for index, text in zip(part, texts, strict=True):
                answers[index] = text
            done += len(part)
            on_progress(done, len(asked))
    return answers


def _answer(
    model: FastVLMModel,
    asked: list[Question],
    features: Features,
    length: int,
    max_tokens: int,
) -> list[str]:
    room = model.config.context_size - length
    if room < 1:
        raise ContextError(
            f"{asked[0].row.origin}: its question takes {length} tokens and leaves no"
            f" room in the context of {model.config.context_size}; shorten it, or lower"
            " the resolution"
        )
    prompts = [_cut(question) for question in asked]
    # What pads the rows of a batch is no part of a prompt.
    inputs = embeddings(model, make_batch(prompts, features, len(prompts)))[:, :length]
    sampling = Sampling(temperature=0.0, max_tokens=min(max_tokens, room))
    completions = batch_generate(model, inputs, sampling)
    return [completion.text.strip() for completion in completions]


def _cut(question: Question) -> Row:
    """The row up to where the answer begins."""
    row = question.row
    nothing = np.zeros(0, np.int32)
    shown = row.feature_rows[: question.length]
    # Images of later turns are not read.
    count = int(shown.max(initial=-1)) + 1
    images, seen = 0, 0
    while seen < count:
        seen += row.image_tokens[images]
        images += 1
    return replace(
        row,
        ids=row.ids[: question.length],
        feature_rows=shown,
        positions=nothing,
        targets=nothing,
        images=row.images[:images],
        image_tokens=row.image_tokens[:images],
    )


def gray_features(model: FastVLMModel, options: ImageOptions) -> mx.array:
    """The encoder's features of a gray image, (tokens, width), for `ask`.

    Raises:
        CheckpointError: the model has no encoder.
    """
    side = options.resolution
    gray = np.full((1, side, side, 3), GRAY, np.float32)
    features = model.encode_features(gray).flatten(0, 1)
    mx.eval(features)
    return features


class _Hidden:
    """The features of one image in place of all others."""

    def __init__(self, features: Features, asked: Sequence[Question], image: mx.array):
        self.width, self.dtype = features.width, features.dtype
        self._image = image.astype(features.dtype)
        self._tokens = {
            image: tokens
            for question in asked
            for image, tokens in zip(
                question.row.images, question.row.image_tokens, strict=True
            )
        }

    def read(self, image: Image) -> mx.array:
        tokens = self._tokens[image]
        views, rest = divmod(tokens, len(self._image))
        if rest:
            raise CheckpointError(
                f"an image takes {tokens} tokens, which is no multiple of the"
                f" {len(self._image)} of a hidden one"
            )
        return mx.tile(self._image, (views, 1))
