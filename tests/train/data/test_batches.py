"""Batches: the loss of a naive trainer, few shapes, an order that a seed gives."""

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.processing.tokenizer import Tokenizer
from fastvlm_mlx.train.data.batches import (
    Batch,
    batch_count,
    batch_order,
    make_batch,
    make_batches,
    padded_count,
    padded_length,
)
from fastvlm_mlx.train.data.rows import Row, build_row
from fastvlm_mlx.train.data.samples import Sample
from tests.support.train_data import IGNORE, NumberedFeatures, cross_entropy, naive

SAMPLES = [
    Sample(("1",), (("What is it?", "A cup of coffee."),)),
    Sample(("2", "3"), (("Which is red?", "The first."), ("Why?", "It is."))),
    Sample(("1", "4"), (("What?", "Tea"), ("Now?", "Milk")), images_by_turn=(1, 1)),
    Sample((), (("Hello", "Hi!"),)),
]


def rows(mini: Tokenizer, samples: list[Sample]) -> list[Row]:
    return [build_row(each, mini, [3] * len(each.images)) for each in samples]


def many(mini: Tokenizer, count: int = 70) -> list[Row]:
    """Rows of different lengths, each with an image and an answer of its own."""
    return rows(
        mini,
        [
            Sample((str(n),), (("What?", f"{n} " * (1 + n * 7 % 30)),))
            for n in range(count)
        ],
    )


def arrays(batch: Batch) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in batch._asdict().items()}


def test_the_loss_of_a_naive_trainer(mini: Tokenizer):
    got = arrays(make_batch(rows(mini, SAMPLES), NumberedFeatures(), 4))
    shape = got["ids"].shape
    logits = np.random.default_rng(3).normal(0, 4, (*shape, 1600))
    labels = np.full(shape, IGNORE)
    for at, sample in enumerate(SAMPLES):
        wanted = naive(sample, [3] * len(sample.images))[1][: shape[1]]
        labels[at, : len(wanted)] = wanted
    chosen = logits.reshape(-1, 1600)[got["positions"]]
    losses = np.log(np.exp(chosen).sum(1)) - chosen[range(len(chosen)), got["targets"]]
    loss = (losses * got["weights"]).sum() / got["weights"].sum()
    assert loss == pytest.approx(cross_entropy(logits, labels), rel=1e-12)


def test_every_place_has_its_own_feature(mini: Tokenizer):
    features = NumberedFeatures()
    got = arrays(make_batch(rows(mini, SAMPLES), features, 4))
    # An image that two rows show is read once.
    assert features.reads == ["1", "2", "3", "4"]
    for at, sample in enumerate(SAMPLES):
        places = got["feature_rows"][at][got["feature_rows"][at] >= 0]
        wanted = [
            int(str(image)) * 100 + row for image in sample.images for row in (0, 1, 2)
        ]
        assert got["features"][places][:, 0].tolist() == wanted
    assert not got["features"][12:].any()
    assert not got["ids"][got["feature_rows"] >= 0].any()


def test_shapes_and_dtypes(mini: Tokenizer):
    batch = make_batch(rows(mini, SAMPLES[:1]), NumberedFeatures(), 4)
    length = batch.ids.shape[1]
    assert length % 32 == 0 and batch.ids.shape == batch.feature_rows.shape == (
        4,
        length,
    )
    assert batch.features.shape == (16, 4) and batch.features.dtype == mx.float16
    assert batch.positions.shape == batch.targets.shape == batch.weights.shape
    assert {each.dtype for each in (batch.ids, batch.feature_rows)} == {mx.int32}
    assert {each.dtype for each in (batch.positions, batch.targets)} == {mx.int32}
    assert batch.weights.dtype == mx.float32
    got = arrays(batch)
    # The three rows that fill it up show nothing and teach nothing.
    assert not got["ids"][1:].any() and (got["feature_rows"][1:] == -1).all()
    assert (got["positions"][got["weights"] > 0] < length).all()


def test_a_batch_without_images(mini: Tokenizer):
    batch = make_batch(rows(mini, SAMPLES[3:]), NumberedFeatures(), 1)
    assert batch.features.shape == (16, 4)
    assert (np.array(batch.feature_rows) == -1).all()


def test_few_shapes(mini: Tokenizer):
    shapes = {
        tuple(part.shape for part in batch)
        for epoch in range(3)
        for batch in make_batches(many(mini), NumberedFeatures(), 4, epoch=epoch)
    }
    assert len(shapes) <= 12
    assert [padded_length(n) for n in (1, 32, 33)] == [32, 32, 64]
    sizes = sorted({padded_count(n) for n in range(130)})
    assert sizes == [16, 24, 32, 48, 64, 96, 128, 192]
    assert all(padded_count(n) >= n for n in range(1000))


def test_an_epoch_has_every_row_once(mini: Tokenizer):
    data = many(mini)
    for epoch in range(3):
        order = batch_order(data, 4, 7, epoch)
        assert sorted(sum(order, [])) == list(range(70))
        assert sorted(map(len, order)) == [2, *[4] * 17]
        assert batch_count(data, 4) == len(order)
    assert batch_order(data, 4, 7, 0) == batch_order(data, 4, 7, 0)
    assert batch_order(data, 4, 7, 0) != batch_order(data, 4, 7, 1)
    assert batch_order(data, 4, 7, 0) != batch_order(data, 4, 8, 0)


def test_rows_of_like_length_stand_together(mini: Tokenizer):
    data = many(mini)
    padded = sum(
        len(chosen) * padded_length(max(len(data[i]) for i in chosen))
        for chosen in batch_order(data, 4)
    )
    shuffled = np.random.default_rng(0).permutation(70).tolist()
    unsorted = sum(
        len(chosen) * padded_length(max(len(data[i]) for i in chosen))
        for chosen in (shuffled[at : at + 4] for at in range(0, 70, 4))
    )
    assert padded < unsorted


def test_going_on_sees_the_same_batches(mini: Tokenizer):
    data, features = many(mini, 30), NumberedFeatures()
    whole = [arrays(b) for b in make_batches(data, features, 4, seed=1, epoch=2)]
    features.reads.clear()
    rest = [
        arrays(b) for b in make_batches(data, features, 4, seed=1, epoch=2, start=5)
    ]
    assert len(whole) == 8 and len(rest) == 3
    assert len(features.reads) <= 12  # nothing is read for what is skipped
    for one, other in zip(whole[5:], rest, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_share_the_rows(ranks: int, mini: Tokenizer):
    data, features = many(mini, 29), NumberedFeatures()
    whole = list(make_batches(data, features, 4, epoch=1))
    shares = [
        list(make_batches(data, features, 4, epoch=1, rank=rank, ranks=ranks))
        for rank in range(ranks)
    ]
    assert {len(share) for share in shares} == {8}

    def learned(batch: Batch) -> list[tuple[int, int]]:
        """(image, token) of each answer position."""
        got = arrays(batch)
        length = got["ids"].shape[1]
        return sorted(
            (int(got["features"][got["feature_rows"][p // length].max()][0]), int(t))
            for p, t, w in zip(
                got["positions"], got["targets"], got["weights"], strict=True
            )
            if w
        )

    for at, batch in enumerate(whole):
        parts = [share[at] for share in shares]
        assert {part.ids.shape[0] for part in parts} == {2}
        assert sorted(sum(map(learned, parts), [])) == learned(batch)
