"""A learner on a mock model, and batches for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx

from fastvlm_mlx.adapters.layers import add_layers, remove_layers
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.train.data.batches import Batch, make_batch
from fastvlm_mlx.train.dropout import keyed_dropouts
from fastvlm_mlx.train.learner import Arrays, Learner
from fastvlm_mlx.train.options import TrainOptions
from fastvlm_mlx.train.run import adapter_spec, learning_names
from tests.support.mock_model import MockModel
from tests.support.training_sets import training_set

KEY = mx.array([1, 2], mx.uint32)


@contextmanager
def learner(model: FastVLMModel | None = None, **options: Any) -> Iterator[Learner]:
    """A learner, whose layers `model` has inside the block."""
    model = MockModel() if model is None else model
    chosen = TrainOptions(**options)
    spec = adapter_spec(chosen)
    add_layers(model, spec)
    with keyed_dropouts(model) as dropouts:
        made = Learner(model, learning_names(model, chosen, spec), chosen, dropouts)
        yield made
    made.install(made.start)
    remove_layers(model)


def some_batch(count: int = 3, start: int = 0) -> Batch:
    """Of `count` rows of a training set from `start` on."""
    data = training_set(start + count, 0)
    return make_batch(data.rows[start:], data.features, count)


def moved(
    parameters: Arrays, amount: float, seed: int = 0, only: str = ""
) -> tuple[Arrays, Arrays]:
    """Parameters moved by `amount` along a random direction, and the direction.

    Only those move whose names end with `only`.
    """
    direction = {
        name: mx.random.normal(array.shape, key=mx.random.key(seed + index))
        * name.endswith(only)
        for index, (name, array) in enumerate(sorted(parameters.items()))
    }
    after = {n: array + amount * direction[n] for n, array in parameters.items()}
    return after, direction
