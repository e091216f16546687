"""Assigns weights to a model after checking their names, shapes and dtypes."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from fastvlm_mlx.cpu import mapped_weights
from fastvlm_mlx.device import device_dtype, on_cpu, on_gpu, without_bfloat16
from fastvlm_mlx.errors import CheckpointError, quoted
from fastvlm_mlx.model.ffn_biases import fold_ffn_biases
from fastvlm_mlx.model.mapped_layers import map_kept
from fastvlm_mlx.model.stored_layers import keep_stored
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.weights.quantization import (
    check_packing,
    dequantized,
    layer_settings,
    unpacked_shape,
)
from fastvlm_mlx.weights.weight_files import Tensors, cast

_READ_AT_ONCE = 2**25  # bytes: several threads read


def check_tensors(model: FastVLMModel, tensors: Tensors) -> None:
    """Refuses tensors that are not exactly the parameters of `model`.

    Raises:
        CheckpointError: names the first tensor that is missing, surplus or misshapen.
    """
    settings = model.config.quantization
    check_packing(tensors, settings)
    parameters: Any = tree_flatten(model.parameters())
    wanted = {name: array.shape for name, array in parameters}
    given = {
        name: unpacked_shape(tensors, name, settings)
        for name in tensors
        if not name.endswith((".scales", ".biases"))
    }
    for fault, names in (
        ("missing", wanted.keys() - given.keys()),
        ("not part of this model", given.keys() - wanted.keys()),
    ):
        if names:
            raise CheckpointError(
                f"tensor {min(names)} is {fault} ({len(names)} such);"
                " the checkpoint is incomplete or of another model"
            )
    for name, shape in wanted.items():
        if given[name] != shape:
            raise CheckpointError(
                f"tensor {name} has shape {given[name]} where {shape} is needed;"
                " the checkpoint does not fit its config.json"
            )
        packed = f"{name.rpartition('.')[0]}.scales" in tensors
        if not packed and not mx.issubdtype(tensors[name].dtype, mx.floating):
            raise CheckpointError(
                f"tensor {name} is of dtype {tensors[name].dtype}, not of floating"
                " point; get the float or the MLX-quantized checkpoint"
            )


def assign(
    model: FastVLMModel,
    tensors: Tensors,
    dtype: mx.Dtype | None = None,
    *,
    folder: Path | None = None,
) -> None:
    """Gives `model` its weights, in the form and, without `dtype`, the dtype that suit
    the device.

    On a GPU quantized layers stay quantized, and the biases of `fold_ffn_biases` are
    no longer parameters of the model. On a Linux CPU large layers keep the form in
    which they are stored, and the rest is float32.

    Args:
        folder: of the tensors: what a Linux CPU uses as stored is mapped, not read.
    Raises:
        CheckpointError: the tensors are not exactly those of the model.
    """
    if on_gpu():
        # Read them before any GPU work waits for them: macOS stops work that stalls
        # for 5 s (kIOGPUCommandBufferCallbackErrorTimeout), as behind a slow disk.
        mx.eval(list(tensors.values()))
    kept: Tensors = {}
    if dtype is None:
        if on_cpu():
            kept = keep_stored(model, tensors, model.config.quantization)
            if kept and folder is not None:
                kept = map_kept(kept, tensors, folder)
            tensors = {n: t for n, t in tensors.items() if n not in kept}
        dtype = device_dtype(tensors.values())
        model.check_finite = dtype == mx.float16 and without_bfloat16()
    settings = model.config.quantization
    if settings is not None and on_cpu():
        tensors = dequantized(tensors, settings, dtype)
    elif settings is not None:
        _quantize_layers(model, tensors, settings)
    try:
        model.load_weights(list((cast(tensors, dtype) | kept).items()), strict=True)
    except ValueError as fault:
        first = str(fault).splitlines()[0]
        raise CheckpointError(
            f"the weights do not fit config.json ({quoted(first)});"
            " convert the checkpoint again"
        ) from fault
    if on_gpu() and model.vision_tower is not None:
        fold_ffn_biases(model.vision_tower)


def read(model: FastVLMModel, tensors: Tensors) -> None:
    """Reads the weights that `assign` gave `model`.

    A tensor that had another dtype is let go of at once, so that memory never holds
    much more than the model.

    Args:
        tensors: those that `assign` was given; empty afterwards.
    """
    tensors.clear()
    evaluate(model)
    mapped_weights.wait()
    mx.clear_cache()


def evaluate(model: FastVLMModel) -> None:
    """Evaluates all parameters but those that are mapped, which any thread may use."""
    waiting: list[mx.array] = []
    parameters: Any = tree_flatten(model.parameters())
    for _, array in parameters:
        if mapped_weights.address(array) is None:
            waiting.append(array)
        if sum(each.nbytes for each in waiting) >= _READ_AT_ONCE:
            mx.eval(waiting)
            waiting.clear()
    mx.eval(waiting)


def _quantize_layers(model: FastVLMModel, tensors: Tensors, settings: dict) -> None:
    """Gives the layers that have `scales` the quantized form they are stored in."""

    def form(path: str, _: nn.Module) -> bool | dict[str, int]:
        if f"{path}.scales" not in tensors:
            return False
        group_size, bits = layer_settings(settings, path)
        return {"group_size": group_size, "bits": bits}

    nn.quantize(model, class_predicate=form)
