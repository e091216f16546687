"""Dropout whose random keys are given, not drawn from the process's state.

A resumed step must drop what the undisturbed one would have, and a checkpointed layer
the same both times. `mlx.nn.Dropout` draws from a state that cannot be set again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn


class DropoutKeys:
    """The keys of all dropouts of a model, for one forward pass."""

    def __init__(self) -> None:
        self.keys: mx.array | None = None

    @contextmanager
    def given(self, key: mx.array, count: int) -> Iterator[None]:
        """Inside the block `count` dropouts have keys of their own, made of `key`."""
        self.keys = mx.random.split(key, max(count, 1))
        try:
            yield
        finally:
            self.keys = None


class KeyedDropout(nn.Module):
    """Stands for an `nn.Dropout`, the `index`-th of the model.

    It drops wherever keys are given, whatever mode the model is in.
    """

    def __init__(self, dropout: nn.Dropout, keys: DropoutKeys, index: int):
        super().__init__()
        self._keep = dropout._p_1
        self._keys, self._index = keys, index

    def __call__(self, x: mx.array) -> mx.array:
        """x, with a share of its values 0 and the others larger to make up for it."""
        if self._keys.keys is None or self._keep == 1:
            return x
        key = self._keys.keys[self._index]
        seen = mx.random.bernoulli(self._keep, x.shape, key=key)
        return mx.where(seen, x / self._keep, 0).astype(x.dtype)


@contextmanager
def keyed_dropouts(model: nn.Module) -> Iterator[tuple[DropoutKeys, int]]:
    """Inside the block the dropouts of `model` are keyed ones; gives their number."""
    keys = DropoutKeys()
    places: list[tuple[Any, str, nn.Dropout]] = [
        (module, name, child)
        for _, module in model.named_modules()
        for name, child in module.items()
        if isinstance(child, nn.Dropout)
    ]
    for index, (module, name, dropout) in enumerate(places):
        module[name] = KeyedDropout(dropout, keys, index)
    try:
        yield keys, len(places)
    finally:
        for module, name, dropout in places:
            module[name] = dropout
