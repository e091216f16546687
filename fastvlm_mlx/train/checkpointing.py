"""Gradient checkpointing: parts of the network are computed again for their gradients,
so that what they compute in between need not be kept.

mlx-lm changes the class of its layers for that, for every model of the process and for
good. Here the layers are replaced while one forward pass is described.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten


def checkpointed(
    module: nn.Module, call: Callable[..., mx.array], learning: Collection[str]
) -> Callable[..., mx.array]:
    """`call`, which computes with `module`, as a function that keeps only its inputs.

    Args:
        call: of arrays alone.
        learning: names of the module's parameters that have gradients.
    """
    flat: Any = tree_flatten(module.parameters())
    parameters = {name: array for name, array in flat if name in learning}

    def again(inside: dict[str, mx.array], *inputs: mx.array) -> mx.array:
        module.update(tree_unflatten(list(inside.items())))
        try:
            return call(*inputs)
        finally:
            module.update(tree_unflatten(list(parameters.items())))

    return lambda *inputs: mx.checkpoint(again)(parameters, *inputs)


@contextmanager
def checkpointed_layers(language_model: Any, learning: Collection[str]) -> Iterator:
    """Inside the block every layer of mlx-lm's `language_model` is checkpointed.

    Args:
        learning: names of its parameters that have gradients.
    """
    body = language_model.model
    layers = body.layers
    body.layers = [
        _Layer(layer, below(f"model.layers.{index}", learning))
        for index, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        body.layers = layers


def below(prefix: str, names: Collection[str]) -> set[str]:
    """Those of `names` that begin with `prefix` and a point, without both."""
    return {n.removeprefix(f"{prefix}.") for n in names if n.startswith(f"{prefix}.")}


class _Layer:
    """Stands for a layer in mlx-lm's loop, which also reads its attributes."""

    def __init__(self, layer: Any, learning: set[str]):
        self._layer, self._learning = layer, learning

    def __call__(self, x: mx.array, mask: Any = None, cache: Any = None) -> mx.array:
        call = checkpointed(
            self._layer, lambda x: self._layer(x, mask, cache), self._learning
        )
        return call(x)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)
