"""Quantizes and dequantizes layers, in MLX's affine format.

A quantized layer is three tensors: `weight` (packed uint32), `scales` and `biases`;
the config says in which groups and with how many bits.
"""

import mlx.core as mx

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.weights.weight_files import Tensors

BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)

# What MLX reads; other tools quantize with more bit widths than we do.
_READABLE = {(size, bits) for size in GROUP_SIZES for bits in (2, 3, 4, 5, 6, 8)}


def quantized(tensors: Tensors, bits: int, group_size: int) -> Tensors:
    """Quantizes every matrix of the language model, its embedding included.

    Raises:
        OptionError: a width that `group_size` does not divide.
    """
    out: Tensors = {}
    for name, value in tensors.items():
        if not (name.startswith("language_model.") and value.ndim == 2):
            out[name] = value
            continue
        if value.shape[1] % group_size:
            raise OptionError(
                f"--q-group-size {group_size}: does not divide {name}'s width"
                f" {value.shape[1]}; use {_fitting(value.shape[1])}"
            )
        layer = name.removesuffix(".weight")
        packed, scales, biases = mx.quantize(value, group_size=group_size, bits=bits)
        out |= {name: packed, f"{layer}.scales": scales, f"{layer}.biases": biases}
    return out


def _fitting(width: int) -> str:
    fits = [str(size) for size in GROUP_SIZES if width % size == 0]
    return " or ".join(fits) or "no quantization"


def is_quantized(tensors: Tensors) -> bool:
    return any(name.endswith(".scales") for name in tensors)


def dequantized(tensors: Tensors, settings: dict | None, dtype=mx.float32) -> Tensors:
    """Undoes the quantization of whatever is quantized; the rest passes through.

    Args:
        tensors: by name, `X.weight`, `X.scales`, `X.biases` for a quantized layer X.
        settings: the config's `quantization`: `group_size` and `bits`, and the same
            under a layer's name where it differs.
    Raises:
        CheckpointError: the settings are missing or contradict the tensors.
    """
    check_packing(tensors, settings)
    out: Tensors = {}
    for name, value in tensors.items():
        layer, _, field = name.rpartition(".")
        if f"{layer}.scales" not in tensors or field == "bias":
            out[name] = value
        elif field == "weight":
            # In the wanted dtype: MLX rounds a weight to that of its scales.
            scales = tensors[f"{layer}.scales"].astype(dtype)
            biases = tensors[f"{layer}.biases"].astype(dtype)
            group_size, bits = layer_settings(settings, layer)
            restored = mx.dequantize(value, scales, biases, group_size, bits)
            out[name] = restored.astype(dtype)
    return out


def check_packing(tensors: Tensors, settings: dict | None) -> None:
    """Refuses quantized layers whose tensors are not packed as `settings` say.

    Raises:
        CheckpointError: a part is missing, or its shape or dtype contradicts.
    """
    for name, scales in tensors.items():
        layer, _, field = name.rpartition(".")
        if field != "scales":
            continue
        group_size, bits = layer_settings(settings, layer)
        weight, biases = tensors.get(f"{layer}.weight"), tensors.get(f"{layer}.biases")
        if weight is None or biases is None:
            missing = "weight" if weight is None else "biases"
            raise CheckpointError(
                f"tensor {layer}.{missing} is missing; the checkpoint is incomplete"
            )
        rows, groups = (*scales.shape, 0, 0)[:2]
        if (
            weight.dtype != mx.uint32
            or scales.ndim != 2
            or biases.shape != scales.shape
            or weight.shape != (rows, groups * group_size * bits // 32)
        ):
            raise CheckpointError(
                f"tensor {layer}.weight {weight.shape} with scales {scales.shape} is"
                f" not quantized with {bits} bits in groups of {group_size}, as"
                " config.json says; get the right config.json"
            )


def unpacked_shape(
    tensors: Tensors, name: str, settings: dict | None
) -> tuple[int, ...]:
    """The shape that the tensor `name` stands for once it is dequantized."""
    layer, _, field = name.rpartition(".")
    scales = tensors.get(f"{layer}.scales")
    if field != "weight" or scales is None:
        return tuple(tensors[name].shape)
    group_size, _ = layer_settings(settings, layer)
    return scales.shape[0], scales.shape[1] * group_size


def layer_settings(settings: dict | None, layer: str) -> tuple[int, int]:
    """(group_size, bits) of one layer by the config's `quantization`."""
    settings = settings or {}
    own = settings.get(layer)
    merged = settings | own if isinstance(own, dict) else settings
    if merged.get("mode", "affine") != "affine":
        raise CheckpointError(
            f"config.json: quantization mode {merged['mode']!r:.200} is not supported;"
            " get a checkpoint quantized in mode 'affine'"
        )
    group_size, bits = merged.get("group_size"), merged.get("bits")
    if group_size is None or bits is None:
        raise CheckpointError(
            f"config.json: no quantization settings, but {layer} is quantized;"
            " get the right config.json"
        )
    if (
        type(group_size) is not int
        or type(bits) is not int
        or (group_size, bits) not in _READABLE
    ):
        raise CheckpointError(
            f"config.json: {layer} is quantized with bits {bits!r:.200} and group_size"
            f" {group_size!r:.200}, which MLX does not read; get the right config.json"
        )
    return group_size, bits
