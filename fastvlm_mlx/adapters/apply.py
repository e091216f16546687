"""Puts an adapter on a loaded model, or on a second one that shares its weights."""

from typing import Any, TypeVar

import mlx.nn as nn

from fastvlm_mlx.adapters.base import BaseRecord
from fastvlm_mlx.adapters.dora import DoRAInference
from fastvlm_mlx.adapters.files import Adapter, naming
from fastvlm_mlx.adapters.layers import (
    add_layers,
    find_places,
    remove_layers,
    set_projector,
    set_tensors,
)
from fastvlm_mlx.errors import AdapterError
from fastvlm_mlx.model.parameters import evaluate
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.weights.weight_files import cast

Model = TypeVar("Model", bound=FastVLMModel)


def attach(model: FastVLMModel, adapter: Adapter) -> None:
    """Puts `adapter` on `model`, whose own weights stay as they are below it.

    A quantized model stays quantized. The adapter takes the dtype of the model. If it
    does not fit, the model is left as it was.

    Raises:
        AdapterError: it is an adapter of another model, or does not fit this one.
    """
    with naming(adapter.folder):
        _attach(model, adapter)
    model.feature_cache.clear()


def with_adapter(model: Model, adapter: Adapter) -> Model:
    """A second model that is `model` with `adapter`; both share every weight.

    Only the adapter's own tensors take memory. Both also share the features of images,
    unless the adapter has a projector.

    Raises:
        AdapterError: as `attach`.
    """
    second = _shallow(model)
    second.language_model = _sharing(model.language_model)
    second.feature_cache = model.feature_cache.scoped(images=adapter.projector is None)
    with naming(adapter.folder):
        _attach(second, adapter)
    return second


def _attach(model: FastVLMModel, adapter: Adapter) -> None:
    spec = adapter.spec
    if adapter.base is not None:
        adapter.base.check_fits(BaseRecord.of(model), adapter.folder or "the adapter")
    places = find_places(model, spec)
    dtype = model.language_model.model.norm.weight.dtype
    projector = model.projector
    try:
        if adapter.projector is not None:
            # Another one: the first may be a second model's too.
            model.projector = _sharing(projector)
            set_projector(model, cast(adapter.projector, dtype))
        add_layers(model, spec)
        # The norms of DoRA are taken in float32.
        exact = spec.method == "dora"
        tensors = adapter.tensors if exact else cast(adapter.tensors, dtype)
        set_tensors(model, spec, tensors)
    except AdapterError:
        model.projector = projector
        remove_layers(model)
        raise
    model.projector_is_tuned = model.projector_is_tuned or bool(adapter.projector)
    if spec.method == "dora":
        for module, name in places:
            setattr(module, name, DoRAInference(module[name], dtype))
    # Any thread may use the model, but only this one can start computing what it read.
    evaluate(model)


def _shallow(module: Any) -> Any:
    """Another module of the same parts."""
    twin = dict.__new__(type(module))
    dict.update(twin, module)  # a module's own `update` only changes what is there
    twin.__dict__.update(
        {
            name: set(value) if isinstance(value, set) else value
            for name, value in vars(module).items()
        }
    )
    return twin


def _sharing(part: Any) -> Any:
    """Another tree of modules with the same arrays in it."""
    if isinstance(part, nn.Module):
        twin = _shallow(part)
        dict.update(twin, {name: _sharing(value) for name, value in part.items()})
        return twin
    if isinstance(part, list | tuple):
        return type(part)(_sharing(each) for each in part)
    if isinstance(part, dict):
        return {name: _sharing(each) for name, each in part.items()}
    return part
