"""The loss is the answers' cross entropy, and its gradients are those of it."""

import sys
from threading import Thread

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from fastvlm_mlx import device
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.model import language
from fastvlm_mlx.train import loss as loss_module
from fastvlm_mlx.train.loss import answer_loss, embeddings
from tests.support.learners import KEY, learner, moved, some_batch
from tests.support.mock_model import MockModel
from tests.support.training_sets import TOKENS, training_set


def test_it_is_the_cross_entropy_at_the_answers_positions():
    model, data = MockModel(), training_set(3, 0)
    total = 0.0
    for row in data.rows:
        image = model.project(data.features.read(row.images[0]).astype(mx.float32))
        pieces: list = [[]]
        for token, feature in zip(row.ids, row.feature_rows, strict=True):
            if feature < 0:
                pieces[-1].append(int(token))
            elif feature == TOKENS - 1:
                pieces += [image, []]
        states = language.hidden(model.language_model, model.embed(pieces))
        logits = language.head(model.language_model, states)[0]
        losses = nn.losses.cross_entropy(
            logits[mx.array(row.positions)], mx.array(row.targets), reduction="sum"
        )
        total += float(losses)
    given = float(answer_loss(model, some_batch(3)))
    assert given == pytest.approx(total, rel=1e-5)


def test_padding_does_not_count():
    model, batch = MockModel(), some_batch()
    padding = np.asarray(batch.weights) == 0
    assert padding.any()
    others = batch._replace(
        targets=mx.where(mx.array(padding), 7, batch.targets),
        positions=mx.where(mx.array(padding), 5, batch.positions),
    )
    given = float(answer_loss(model, batch))
    assert float(answer_loss(model, others)) == pytest.approx(given, rel=1e-6)


def test_a_batch_without_images():
    model, batch = MockModel(), some_batch()
    empty = batch._replace(
        features=batch.features[:0], feature_rows=mx.full(batch.ids.shape, -1)
    )
    words = model.embed_tokens(batch.ids)
    assert mx.array_equal(embeddings(model, empty), words)


@pytest.mark.parametrize("method", ["lora", "dora", "full", "projector"])
def test_gradients_against_finite_differences(method: str):
    """Of all that learns, along a random direction, at parameters that are not 0."""
    options = {"method": method, "projector": True, "rank": 4}
    with learner(MockModel(), **options) as made:
        batch, (at, _) = some_batch(), moved(made.start, 0.02, seed=3)
        _, gradients = made.gradients(at, batch, KEY)
        assert gradients.keys() == made.start.keys()
        for name, array in gradients.items():
            # Each on its own too: none may be missing.
            assert mx.abs(array).max() > 0, name
        # DoRA's norms count as constants in its gradients, so that those of the
        # factors are not the loss's; those of its magnitudes are.
        only, step = ".m" if method == "dora" else "", 1e-3
        ahead, direction = moved(at, step, only=only)
        behind, _ = moved(at, -step, only=only)
        measured = (made.loss(ahead, batch) - made.loss(behind, batch)) / (2 * step)
        wanted = sum(float((gradients[n] * direction[n]).sum()) for n in direction)
    assert measured == pytest.approx(wanted, rel=1e-2)


def test_the_kernels_without_gradients_are_off_in_this_thread_alone(monkeypatch):
    monkeypatch.setattr(kernels, "library", lambda: object())
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 1)
    arrays, seen = mx.zeros(4), []
    thread = Thread(target=lambda: seen.append(kernels.usable(arrays)))
    before = kernels.usable(arrays)
    with kernels.switched_off():
        assert not kernels.usable(arrays)
        thread.start()
        thread.join()
    assert seen == [before] == [kernels.usable(arrays)]
    assert before == (sys.platform == "linux" and device.on_cpu())


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_gradients(method: str, dropout: float):
    given = []
    for checkpoint in (False, True):
        options = {"method": method, "dropout": dropout, "checkpoint": checkpoint}
        with learner(MockModel(), **options) as made:
            at, _ = moved(made.start, 0.02)
            given.append(made.gradients(at, some_batch(), KEY))
            layers = made.model.language_model.layers
            assert type(layers[0]).__name__ == "TransformerBlock"
    (loss, gradients), (loss_again, again) = given
    assert loss == loss_again
    for name, array in gradients.items():
        assert np.allclose(array, again[name], rtol=1e-5, atol=1e-6), name


def test_a_head_in_pieces_gives_the_same(monkeypatch):
    with learner(MockModel(), method="full") as made:
        loss, gradients = made.gradients(made.start, some_batch(), KEY)
        monkeypatch.setattr(loss_module, "POSITIONS", 5)
        loss_again, again = made.gradients(made.start, some_batch(), KEY)
    assert loss_again == pytest.approx(loss, rel=1e-6)
    for name, array in gradients.items():
        assert np.allclose(array, again[name], rtol=1e-4, atol=1e-5), name


def test_an_untied_head_in_pieces(monkeypatch, tmp_path):
    from fastvlm_mlx import load
    from tests.support import checkpoints

    folder = checkpoints.write(tmp_path / "untied", tied=False)
    monkeypatch.setattr(loss_module, "POSITIONS", 5)
    model = load(folder)
    assert model.config.projector is not None
    width = model.config.projector.dims[0]
    batch = some_batch()
    features = mx.tile(batch.features, (1, -(-width // 32)))[:, :width]
    with learner(model, method="full") as made:
        _, gradients = made.gradients(
            made.start, batch._replace(features=features), KEY
        )
    assert mx.abs(gradients["language_model.lm_head.weight"]).max() > 0


def test_the_model_keeps_its_weights():
    model = MockModel()
    before = {n: mx.array(a) for n, a in tree_flatten(model.parameters())}  # type: ignore
    with learner(model, method="full") as made:
        changed, _ = moved(made.start, 0.1)
        made.gradients(changed, some_batch(), KEY)
    after = dict(tree_flatten(model.parameters()))  # type: ignore
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[name], after[name]) for name in before)
