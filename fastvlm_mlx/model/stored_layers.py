"""Layers for a Linux CPU whose weights stay bfloat16 or quantized in memory.

Inputs, sums and outputs are float32: a result is what the widened weights would give,
but for the order of its sums. Where the kernels are not usable, as while training, a
layer widens its weight for that one product.

The encoder's linear layers are bfloat16 too, whatever they are stored in: a converted
encoder is float32, as its BatchNorms were folded into the weights. The features of the
reference checkpoints keep 69 dB PSNR or more. Float16 would keep 20 dB more, but the
processors that multiply 16-bit numbers take bfloat16.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx.cpu import kernels, mapped_weights
from fastvlm_mlx.cpu.stored_weights import Matrix, matrix
from fastvlm_mlx.weights.quantization import layer_settings
from fastvlm_mlx.weights.weight_files import Tensors

# What the kernels take: widths that are a multiple of this, and so many bits.
WIDTH = 64
BITS = (4, 8)


class StoredLinear(nn.Linear):
    """A linear layer with a bfloat16 `weight`."""

    def stored(self) -> Matrix | None:
        """What the kernels take, if they take it."""
        return matrix(self.weight, self.get("bias")) if _fits(self.weight) else None

    def __call__(self, x: mx.array) -> mx.array:
        return _product(self, x)


class StoredEmbedding(nn.Embedding):
    """An embedding table with a bfloat16 `weight`."""

    def __call__(self, x: mx.array) -> mx.array:
        return _rows(self.weight, x).astype(mx.float32)

    def as_linear(self, x: mx.array) -> mx.array:
        return _product(self, x)


class StoredQuantizedLinear(nn.QuantizedLinear):
    """A quantized linear layer, its scales and biases float32 or bfloat16."""

    def stored(self) -> Matrix:
        """What the kernels take."""
        return matrix(
            self.weight,
            self.get("bias"),
            scales=self.scales,
            biases=self.biases,
            group_size=self.group_size,
            bits=self.bits,
        )

    def __call__(self, x: mx.array) -> mx.array:
        return _quantized_product(self, x)


class StoredQuantizedEmbedding(nn.QuantizedEmbedding):
    """A quantized embedding table, its scales and biases float32 or bfloat16."""

    def __call__(self, x: mx.array) -> mx.array:
        tables: Any = (self.weight, self["scales"], self["biases"])
        return _dequantized(self, *(_rows(table, x) for table in tables))

    def as_linear(self, x: mx.array) -> mx.array:
        return _quantized_product(self, x)


# Its products are fused with what stands before and after them, and take any width
# (`cpu/encoder_bfloat16.cpp`).
ENCODER = "vision_tower."

_FORMS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: StoredLinear,
    nn.Embedding: StoredEmbedding,
    nn.QuantizedLinear: StoredQuantizedLinear,
    nn.QuantizedEmbedding: StoredQuantizedEmbedding,
}


def keep_stored(model: nn.Module, tensors: Tensors, settings: dict | None) -> Tensors:
    """Gives layers of `model` the form in which they are stored, where the kernels can
    compute with it, and those of a large encoder bfloat16.

    Args:
        model: a float model, its weights not yet loaded.
        tensors: by name; those of layers that keep their form.
        settings: the config's `quantization`.
    Returns:
        the tensors of these layers, each the same array where it is used as it is
        stored; none where that does not pay.
    """
    kept: Tensors = {}
    if _count(tensors) < kernels.WORTH_COMPILING or not kernels.at_hand():
        return kept
    small_encoder = _count(tensors, ENCODER) < kernels.WORTH_COMPILING

    def form(path: str, layer: nn.Module) -> bool | dict[str, int]:
        name = f"{path}.weight"
        weight = tensors.get(name)
        if type(layer) not in _FORMS or weight is None:
            return False
        parts = {
            each: tensors[each]
            for part in ("weight", "scales", "biases")
            if (each := f"{path}.{part}") in tensors
        }
        if path.startswith(ENCODER):
            if len(parts) == 1 and not small_encoder:
                _take_form(layer)
                # The same array if it is bfloat16 already.
                is_so = weight.dtype == mx.bfloat16
                kept[name] = weight if is_so else weight.astype(mx.bfloat16)
            return False
        if len(parts) == 1:
            if weight.dtype == mx.bfloat16 and weight.shape[1] % WIDTH == 0:
                _take_form(layer)
                kept.update(parts)
            return False
        group_size, bits = layer_settings(settings, path)
        if bits not in BITS or parts[f"{path}.scales"].shape[1] * group_size % WIDTH:
            return False
        kept.update(parts)
        scales = [each for each in parts if each != name]
        if {parts[each].dtype for each in scales} != {mx.bfloat16}:
            kept.update({each: parts[each].astype(mx.float32) for each in scales})
        return {"group_size": group_size, "bits": bits}

    nn.quantize(model, class_predicate=form)
    for _, layer in model.named_modules():
        if isinstance(layer, nn.QuantizedLinear | nn.QuantizedEmbedding):
            _take_form(layer)
    return kept


def _rows(table: mx.array, ids: mx.array) -> mx.array:
    return mapped_weights.rows(table, ids) if kernels.at_hand() else table[ids]


def _count(tensors: Tensors, prefix: str = "") -> int:
    return sum(array.size for name, array in tensors.items() if name.startswith(prefix))


def _take_form(layer: Any) -> None:
    # The layer itself: its place in the model may be another object's attribute too.
    layer.__class__ = _FORMS[type(layer)]


def _product(layer: Any, x: mx.array) -> mx.array:
    weight, bias = layer.weight, layer.get("bias")
    if _fits(weight) and kernels.at_hand(x):
        return kernels.linear_bfloat16(x, weight, bias)
    y = x @ weight.astype(mx.float32).T
    return y if bias is None else y + bias


def _fits(weight: mx.array) -> bool:
    # An adapter of full weights puts float32 in its place.
    return weight.dtype == mx.bfloat16 and weight.shape[1] % WIDTH == 0


def _quantized_product(layer: Any, x: mx.array) -> mx.array:
    parts, bias = (layer.weight, layer.scales, layer.biases), layer.get("bias")
    form = {"group_size": layer.group_size, "bits": layer.bits}
    if kernels.at_hand(x):
        return kernels.linear_quantized(x, *parts, bias, **form)
    y = x @ _dequantized(layer, *parts).T
    return y if bias is None else y + bias


def _dequantized(
    layer: Any, weight: mx.array, scales: mx.array, biases: mx.array
) -> mx.array:
    # In the wanted dtype: MLX rounds a weight to that of its scales.
    scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    form = {"group_size": layer.group_size, "bits": layer.bits}
    return mx.dequantize(weight, scales, biases, **form)
