"""What the device wants: the dtype of the weights, and quantised layers or plain ones.

Metal and CUDA run bfloat16 and keep quantised layers quantised. The CPU runs
float32 and undoes quantisation on load: there `quantized_matmul` is 40 times slower
than a float32 product through a good BLAS.
"""

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model import FastVLM
from fastvlm_mlx.quantization import dequantized, layer_settings
from fastvlm_mlx.tensors import Tensors, cast

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def device_dtype() -> mx.Dtype:
    """The dtype that suits the default device."""
    return mx.float32 if on_cpu() else mx.bfloat16


def on_cpu() -> bool:
    return mx.default_device().type == mx.cpu


def assign(model: FastVLM, tensors: Tensors, dtype: mx.Dtype) -> None:
    """Gives `model` its weights, quantised layers in the form that suits the device.

    Raises:
        CheckpointError: the tensors are not exactly those of the model.
    """
    settings = model.config.quantization
    if settings is not None and on_cpu():
        tensors = dequantized(tensors, settings, dtype)
    elif settings is not None:
        _quantize_layers(model, tensors, settings)
    try:
        model.load_weights(list(cast(tensors, dtype).items()), strict=True)
    except ValueError as fault:
        raise CheckpointError(
            f"the weights do not fit config.json ({str(fault).splitlines()[0]});"
            " convert the checkpoint again"
        ) from fault


def _quantize_layers(model: FastVLM, tensors: Tensors, settings: dict) -> None:
    """Gives the layers that have `scales` the quantised form they are stored in."""

    def form(path: str, _: nn.Module) -> bool | dict[str, int]:
        if f"{path}.scales" not in tensors:
            return False
        group_size, bits = layer_settings(settings, path)
        return {"group_size": group_size, "bits": bits}

    nn.quantize(model, class_predicate=form)
