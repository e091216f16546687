"""Quantised layers, made and undone.

A quantised layer is three tensors: `weight` (packed uint32), `scales` and `biases`;
the config says in which groups and with how many bits.
"""

import mlx.core as mx

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.tensors import Tensors

BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)


def quantized(tensors: Tensors, bits: int, group_size: int) -> Tensors:
    """Quantises every matrix of the language model, its embedding included.

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
    return " or ".join(fits) or "no quantisation"


def is_quantized(tensors: Tensors) -> bool:
    return any(name.endswith(".scales") for name in tensors)


def dequantized(tensors: Tensors, settings: dict | None, dtype=mx.float32) -> Tensors:
    """Undoes the quantisation of whatever is quantised; the rest passes through.

    Args:
        tensors: by name, `X.weight`, `X.scales`, `X.biases` for a quantised layer X.
        settings: the config's `quantization`: `group_size` and `bits`, and the same
            under a layer's name where it differs.
    Raises:
        CheckpointError: the settings are missing or contradict the tensors.
    """
    out: Tensors = {}
    for name, value in tensors.items():
        layer, _, field = name.rpartition(".")
        if f"{layer}.scales" not in tensors or field == "bias":
            out[name] = value
        elif field == "weight":
            scales, biases = tensors[f"{layer}.scales"], tensors[f"{layer}.biases"]
            group_size, bits = layer_settings(settings, layer)
            try:
                restored = mx.dequantize(value, scales, biases, group_size, bits)
            except (ValueError, RuntimeError) as fault:
                raise CheckpointError(
                    f"tensor {name}: not quantised with {bits} bits in groups of"
                    f" {group_size}, as config.json says; get the right config.json"
                ) from fault
            out[name] = restored.astype(dtype)
    return out


def layer_settings(settings: dict | None, layer: str) -> tuple[int, int]:
    """(group_size, bits) of one layer by the config's `quantization`."""
    settings = settings or {}
    own = settings.get(layer)
    merged = settings | own if isinstance(own, dict) else settings
    if merged.get("mode", "affine") != "affine":
        raise CheckpointError(
            f"config.json: quantization mode {merged['mode']!r} is not supported;"
            " get a checkpoint quantised in mode 'affine'"
        )
    group_size, bits = merged.get("group_size"), merged.get("bits")
    if not isinstance(group_size, int) or not isinstance(bits, int):
        raise CheckpointError(
            f"config.json: no quantization settings, but {layer} is quantised;"
            " get the right config.json"
        )
    return group_size, bits
