"""Puts an adapter's layers into a language model, and its tensors into and out of them.

The layers are mlx-lm's own, so their arithmetic and the names of their tensors are
those of every other program that reads this format.
"""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from fastvlm_mlx.adapters.base import no_language_model
from fastvlm_mlx.adapters.spec import ALL_KEYS, AdapterSpec
from fastvlm_mlx.errors import AdapterError
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.language import mlx_lm_module
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.weights.weight_files import Tensors

# The parameters of an adapter's layer that are not the linear's; `m` is DoRA's.
LEAVES = {"lora": ("lora_a", "lora_b"), "dora": ("lora_a", "lora_b", "m"), "full": ()}


def add_layers(model: FastVLMModel, spec: AdapterSpec) -> None:
    """Puts a LoRA or DoRA layer in place of each linear layer that `spec` names.

    The linear layer, float or quantized, becomes its part `linear`, unchanged. The
    new factors give no change yet: `lora_a` (in, rank) is random by MLX's state,
    `lora_b` (rank, out) is zero. For the method `full` nothing is put in.

    Raises:
        AdapterError: the model has no language model, fewer layers, an adapter's
            layers already; or it is quantized and the method is `full`.
    """
    places = find_places(model, spec)
    if spec.method == "full":
        return
    kind = _layer_kind(spec.method)
    for module, name in places:
        linear = module[name]
        if "lora_a" in linear:
            raise AdapterError(
                f"this model has an adapter already, at {name}; load it again without"
            )
        layer = kind.from_base(
            linear, r=spec.rank, scale=spec.scale, dropout=spec.dropout
        )
        layer.train(module.training)
        setattr(module, name, layer)


def remove_layers(model: FastVLMModel) -> None:
    """Puts the linear layers back where `add_layers` replaced them."""
    for module in model.language_model.modules():
        for name, layer in list(module.items()):
            if isinstance(layer, nn.Module) and "lora_a" in layer:
                setattr(module, name, layer["linear"])


def find_places(model: FastVLMModel, spec: AdapterSpec) -> list[tuple[Any, str]]:
    """Each layer that `spec` names, as the module that holds it and its name there.

    Raises:
        AdapterError: as `add_layers`.
    """
    if model.language_model is None:
        raise no_language_model()
    changed = changed_layers(model.config, spec)
    if spec.method == "full":
        return []
    places = []
    for index in changed:
        for key in spec.keys:
            part, _, name = key.partition(".")
            places.append((model.language_model.layers[index][part], name))
    return places


def changed_layers(config: ModelConfig, spec: AdapterSpec) -> range:
    """The numbers of the layers that an adapter of `spec` changes.

    Raises:
        AdapterError: as `add_layers`.
    """
    if config.text is None:
        raise no_language_model()
    count = config.text.num_hidden_layers
    if spec.num_layers > count:
        raise AdapterError(
            f"the adapter changes {spec.num_layers} layers, but this model has"
            f" {count}; give the model it was trained on"
        )
    if spec.method == "full" and config.quantization is not None:
        raise AdapterError(
            "a full fine-tuning replaces float weights, and this model is quantized;"
            " use the float checkpoint it was made from"
        )
    return range(count - spec.num_layers if spec.num_layers > 0 else 0, count)


def expected_shapes(
    config: ModelConfig, spec: AdapterSpec
) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the tensors of a LoRA or DoRA adapter of `spec`.

    Raises:
        AdapterError: as `add_layers`.
    """
    changed, text = changed_layers(config, spec), config.text
    assert text is not None
    hidden, inner = text.hidden_size, text.intermediate_size
    heads = text.num_attention_heads * text.head_dim
    kv_heads = text.num_key_value_heads * text.head_dim
    sizes: dict[str, tuple[int, int]] = dict(
        zip(
            ALL_KEYS,
            (
                (hidden, heads),
                (hidden, kv_heads),
                (hidden, kv_heads),
                (heads, hidden),
                (hidden, inner),
                (hidden, inner),
                (inner, hidden),
            ),
            strict=True,
        )
    )
    shapes: dict[str, tuple[int, ...]] = {}
    for index in changed:
        for key in spec.keys:
            dim, out_dim = sizes[key]
            each = ((dim, spec.rank), (spec.rank, out_dim), (out_dim,))
            for leaf, shape in zip(LEAVES[spec.method], each, strict=False):
                shapes[f"model.layers.{index}.{key}.{leaf}"] = shape
    return shapes


def names_of_full(
    names: Iterable[str], config: ModelConfig, spec: AdapterSpec
) -> list[str]:
    """Those of the language model's tensors that a full fine-tuning replaces."""
    if spec.num_layers < 0:
        return list(names)
    changed = changed_layers(config, spec)
    last = tuple(f"model.layers.{index}." for index in changed)
    return [name for name in names if name.startswith(last)]


def adapter_tensors(model: FastVLMModel, spec: AdapterSpec) -> Tensors:
    """The tensors of the adapter on `model`, by mlx-lm's names, as they are now.

    Names are relative to the language model: `model.layers.0.self_attn.q_proj.lora_a`
    (in, rank), `.lora_b` (rank, out), and DoRA's `.m` (out,). For the method `full`
    they are the language model's own weights.
    """
    flat: Any = tree_flatten(model.language_model.parameters())
    if spec.method != "full":
        leaves = LEAVES[spec.method]
        return {
            name: value for name, value in flat if name.rpartition(".")[2] in leaves
        }
    weights = dict(flat)
    names = names_of_full(weights, model.config, spec)
    return {name: weights[name] for name in names}


def set_tensors(model: FastVLMModel, spec: AdapterSpec, tensors: Tensors) -> None:
    """Gives the adapter on `model` its tensors; names as in `adapter_tensors`.

    Raises:
        AdapterError: names the first tensor that is missing, surplus or misshapen.
    """
    wanted = adapter_tensors(model, spec)
    check_shapes(tensors, {name: array.shape for name, array in wanted.items()})
    model.language_model.load_weights(list(tensors.items()), strict=False)


def projector_tensors(model: FastVLMModel) -> Tensors:
    """The projector's weights as they are now: `layers.0.weight` (out, in) and so on.

    Raises:
        AdapterError: the model has no projector that could be trained.
    """
    if model.projector is None or not model.projector.layers:
        raise AdapterError(
            "this model's projector has no weights of its own; leave the projector out"
        )
    flat: Any = tree_flatten(model.projector.parameters())
    return dict(flat)


def set_projector(model: FastVLMModel, tensors: Tensors) -> None:
    """Gives `model` a trained projector's weights; names as in `projector_tensors`.

    Raises:
        AdapterError: as `projector_tensors` and `set_tensors`.
    """
    wanted = projector_tensors(model)
    check_shapes(tensors, {name: array.shape for name, array in wanted.items()})
    assert model.projector is not None
    model.projector.load_weights(list(tensors.items()))


def check_shapes(tensors: Tensors, wanted: dict[str, tuple[int, ...]]) -> None:
    """Refuses tensors that have not exactly these names and shapes.

    Raises:
        AdapterError: names the first.
    """
    for fault, names in (
        ("missing", wanted.keys() - tensors.keys()),
        ("not part of what its config says", tensors.keys() - wanted.keys()),
    ):
        if names:
            raise AdapterError(
                f"the adapter's tensor {min(names)} is {fault} ({len(names)} such); it"
                " is incomplete or of another model"
            )
    for name, shape in wanted.items():
        array = tensors[name]
        if array.shape != shape:
            raise AdapterError(
                f"the adapter's tensor {name} has shape {array.shape}, but this model"
                f" needs {shape}; give the model it was trained on"
            )
        if not mx.issubdtype(array.dtype, mx.floating):
            raise AdapterError(
                f"the adapter's tensor {name} is of dtype {array.dtype}, not of"
                " floating point; get the adapter's own file"
            )


def _layer_kind(method: str) -> Any:
    if method == "dora":
        return mlx_lm_module("tuner.dora").DoRALinear
    return mlx_lm_module("tuner.lora").LoRALinear
