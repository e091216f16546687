"""Small models with adapters on them that change every answer."""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from fastvlm_mlx.adapters.base import BaseRecord
from fastvlm_mlx.adapters.files import Adapter
from fastvlm_mlx.adapters.layers import (
    adapter_tensors,
    add_layers,
    projector_tensors,
    remove_layers,
)
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.model.vlm import FastVLMModel


def flat(module: Any) -> dict[str, mx.array]:
    """The parameters of a module by name."""
    pairs: Any = tree_flatten(module.parameters())
    return dict(pairs)


def make_adapter(model: FastVLMModel, spec: AdapterSpec, size: float = 0.3) -> Adapter:
    """A seeded random adapter of `model`, which stays as it was."""
    base = BaseRecord.of(model)
    add_layers(model, spec)
    shapes = adapter_tensors(model, spec)
    remove_layers(model)
    tensors = {name: _moved(array, size, name) for name, array in shapes.items()}
    projector = None
    if spec.projector:
        own = projector_tensors(model)
        projector = {name: _moved(array, size, name) for name, array in own.items()}
    mx.eval(tensors, projector)
    return Adapter(spec, tensors, projector, base)


def _moved(array: mx.array, size: float, name: str) -> mx.array:
    key = mx.random.key(sum(name.encode()))
    noise = size * mx.random.normal(array.shape, key=key)
    if name.endswith((".lora_a", ".lora_b")):
        return noise
    return array * (1 + noise)
