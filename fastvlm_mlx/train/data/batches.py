"""Batches: rows padded to a few sizes, in an order that a seed and an epoch give."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from fastvlm_mlx.train.data.rows import Row
from fastvlm_mlx.train.data.samples import Image

LENGTH_STEP = 32  # lengths are multiples of this
_SMALLEST = 16  # of answer positions and of features
# Rows are sorted by length within this many batches: little padding, and long and short
# rows still take turns.
_SORTED_BATCHES = 16


class Batch(NamedTuple):
    """Rows for one step. Few shapes occur, so that few steps are compiled.

    Attributes:
        ids: (B, L) int32, 0 where an image or padding stands.
        feature_rows: (B, L) int32, a row of `features`, or -1.
        features: (F, width), what the projector takes; unused rows are 0.
        positions: (A,) int32, ascending flat b * L + l of the hidden states whose next
            token is an answer's; 0 for padding.
        targets: (A,) int32, these tokens; 0 for padding.
        weights: (A,) float32, 1; 0 for padding.
    """

    ids: mx.array
    feature_rows: mx.array
    features: mx.array
    positions: mx.array
    targets: mx.array
    weights: mx.array


class Features(Protocol):
    """Where batches get the features of images, as `FeatureStore`."""

    @property
    def width(self) -> int: ...
    @property
    def dtype(self) -> mx.Dtype: ...
    def read(self, image: Image) -> mx.array:
        """(tokens, width)"""
        ...


def batch_order(
    rows: Sequence[Row], size: int, seed: int = 0, epoch: int = 0
) -> list[list[int]]:
    """The rows of each batch of an epoch, by their indices; every row once.

    It follows from the lengths of the rows, `size`, `seed` and `epoch` alone. All
    batches but one have `size` rows.
    """
    random = np.random.default_rng([seed, epoch])
    shuffled = random.permutation(len(rows)).tolist()
    batches: list[list[int]] = []
    for start in range(0, len(rows), size * _SORTED_BATCHES):
        part = shuffled[start : start + size * _SORTED_BATCHES]
        part.sort(key=lambda index: padded_length(len(rows[index])))
        batches += [part[at : at + size] for at in range(0, len(part), size)]
    return [batches[index] for index in random.permutation(len(batches))]


def batch_count(rows: Sequence[Row], size: int) -> int:
    """The number of batches in an epoch."""
    return -(-len(rows) // size)


def make_batches(
    rows: Sequence[Row],
    features: Features,
    size: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """The batches of an epoch from number `start` on.

    With several processes, that of `rank` gets every `ranks`-th row of each batch, and
    as many batches as the others: one without a row is all padding.
    """
    share = -(-size // ranks)
    for chosen in batch_order(rows, size, seed, epoch)[start:]:
        yield make_batch([rows[i] for i in chosen[rank::ranks]], features, share)


def make_batch(rows: Sequence[Row], features: Features, size: int) -> Batch:
    """One batch of `rows`, filled up to `size` rows with padding.

    An image that several rows show is there once.
    """
    length = padded_length(max((len(row) for row in rows), default=1))
    ids = np.zeros((max(size, len(rows)), length), np.int32)
    feature_rows = np.full_like(ids, -1)
    starts: dict[Image, int] = {}
    parts: list[mx.array] = []
    count = 0
    positions: list[np.ndarray] = []
    for at, row in enumerate(rows):
        ids[at, : len(row)] = row.ids
        local: list[np.ndarray] = []
        for image, tokens in zip(row.images, row.image_tokens, strict=True):
            if image not in starts:
                parts.append(features.read(image))
                starts[image] = count
                count += tokens
            local.append(np.arange(tokens, dtype=np.int32) + starts[image])
        if local:
            places = row.feature_rows >= 0
            found = np.concatenate(local)[row.feature_rows[places]]
            feature_rows[at, : len(row)][places] = found
        positions.append(row.positions + at * length)
    answers = sum(map(len, positions))
    padding = [0] * (padded_count(answers) - answers)
    rest = mx.zeros((padded_count(count) - count, features.width), features.dtype)
    return Batch(
        ids=mx.array(ids),
        feature_rows=mx.array(feature_rows),
        features=mx.concatenate([*parts, rest]),
        positions=_flat([*positions, padding], mx.int32),
        targets=_flat([*(row.targets for row in rows), padding], mx.int32),
        weights=_flat([[1] * answers, padding], mx.float32),
    )


def _flat(parts: Sequence[np.ndarray | list[int]], dtype: mx.Dtype) -> mx.array:
    return mx.array(np.concatenate(parts), dtype)


def padded_length(length: int) -> int:
    """The next multiple of LENGTH_STEP."""
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def padded_count(count: int) -> int:
    """The next of 16, 24, 32, 48, 64, 96, 128 ...: half of it at most is padding."""
    size = _SMALLEST
    while size < count:
        if size * 3 // 2 >= count:
            return size * 3 // 2
        size *= 2
    return size
