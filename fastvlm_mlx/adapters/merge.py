"""Merges an adapter into a model's float weights, by plain arithmetic in float32."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from fastvlm_mlx.adapters.base import BaseRecord
from fastvlm_mlx.adapters.dora import adapted
from fastvlm_mlx.adapters.files import Adapter, naming
from fastvlm_mlx.adapters.layers import (
    changed_layers,
    check_shapes,
    expected_shapes,
    names_of_full,
)
from fastvlm_mlx.errors import AdapterError
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.parameters import evaluate
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.weights.weight_files import Tensors

_LANGUAGE, _PROJECTOR = "language_model.", "projector."


def merge(model: FastVLMModel, adapter: Adapter) -> None:
    """Adds the adapter's changes to the weights of `model`, which then has no adapter.

    Raises:
        AdapterError: the model is quantized, or the adapter does not fit it.
    """
    flat: Any = tree_flatten(model.parameters())
    merged = merged_tensors(dict(flat), model.config, adapter)
    model.load_weights(list(merged.items()))
    evaluate(model)
    model.projector_is_tuned = model.projector_is_tuned or bool(adapter.projector)
    model.feature_cache.clear()


def merged_tensors(tensors: Tensors, config: ModelConfig, adapter: Adapter) -> Tensors:
    """The tensors of a model folder with the adapter's changes added; lazy.

    Args:
        tensors: of the whole model, by the names of `fastvlm_mlx/model/vlm.py`.
        config: of the model.
        adapter: what to merge. Every tensor keeps its dtype.
    Raises:
        AdapterError: the model is quantized, or the adapter does not fit it.
    """
    with naming(adapter.folder):
        return _merged(tensors, config, adapter)


def merge_into(
    tensors: Tensors, config: ModelConfig, adapter: Adapter
) -> tuple[Tensors, ModelConfig]:
    """`merged_tensors`, and a config that names the adapter as part of its source."""
    merged = merged_tensors(tensors, config, adapter)
    name = adapter.folder.resolve().name if adapter.folder else "an adapter"
    return merged, replace(config, source=config.source | {"adapter": name})


def _merged(tensors: Tensors, config: ModelConfig, adapter: Adapter) -> Tensors:
    if config.quantization is not None:
        raise AdapterError(
            "cannot be merged into a quantized model, whose rounding would take much"
            " of it away; merge it into the float checkpoint"
        )
    spec = adapter.spec
    changed = changed_layers(config, spec)
    if adapter.base is not None:
        record = BaseRecord.of_tensors(tensors, config)
        adapter.base.check_fits(record, adapter.folder or "the adapter")
    if spec.method == "full":
        own = [n.removeprefix(_LANGUAGE) for n in tensors if n.startswith(_LANGUAGE)]
        names = names_of_full(own, config, spec)
        changes = _replaced(tensors, adapter.tensors, _LANGUAGE, names)
    else:
        check_shapes(adapter.tensors, expected_shapes(config, spec))
        places = [f"model.layers.{n}.{key}" for n in changed for key in spec.keys]
        changes = _added(tensors, adapter, places)
    if adapter.projector is not None:
        own = [n.removeprefix(_PROJECTOR) for n in tensors if n.startswith(_PROJECTOR)]
        changes |= _replaced(tensors, adapter.projector, _PROJECTOR, own)
    return tensors | changes


def _replaced(old: Tensors, new: Tensors, prefix: str, names: list[str]) -> Tensors:
    check_shapes(new, {name: old[prefix + name].shape for name in names})
    return {prefix + name: new[name].astype(old[prefix + name].dtype) for name in names}


def _added(old: Tensors, adapter: Adapter, places: list[str]) -> Tensors:
    spec, tensors = adapter.spec, adapter.tensors
    changes: Tensors = {}
    for place in places:
        name = f"{_LANGUAGE}{place}.weight"
        a, b = tensors[f"{place}.lora_a"], tensors[f"{place}.lora_b"]
        weight = adapted(old[name], a, b, spec.scale)
        if spec.method == "dora":
            norms = mx.linalg.norm(weight, axis=1)
            weight *= (tensors[f"{place}.m"] / norms)[:, None]
        changes[name] = weight.astype(old[name].dtype)
    return changes
