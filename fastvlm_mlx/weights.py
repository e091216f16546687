"""From a name to a loaded model: what to load, on which device, in which dtype.

Metal and CUDA run bfloat16 and keep quantised layers quantised. The CPU runs
float32 and undoes quantisation on load: there `quantized_matmul` is 40 times slower
than a float32 product through a good BLAS.
"""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx import hub
from fastvlm_mlx.config import FORMAT, ModelConfig, read_json
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.model import FastVLM, check_tensors
from fastvlm_mlx.quantization import dequantized, layer_settings
from fastvlm_mlx.tensors import Tensors, load_tensors, weight_files
from fastvlm_mlx.tokenizer import Tokenizer

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

Progress = Callable[[int, int], None]


def load(
    name: str | Path = "demo",
    *,
    dtype: str | None = None,
    on_progress: Progress | None = None,
) -> FastVLM:
    """Loads a model, converting it once into the cache if it is not ours yet.

    Weights are read from disk when first used; `mx.eval(model.parameters())` reads
    them all.

    Args:
        name: `demo`, `0.5b`, `1.5b`, `7b`, a hub id, or a path to a folder, `.zip` or
            weight file in any known layout.
        dtype: float32, float16 or bfloat16; the device's own by default (above).
        on_progress: called with (bytes done, bytes in all) while converting.
    Raises:
        CheckpointError: the checkpoint is unknown, damaged or incomplete.
        DownloadError: it could not be fetched.
        OptionError: an unknown `dtype`.
    """
    if dtype is not None and dtype not in DTYPES:
        raise OptionError(f"dtype {dtype!r}: unknown; use {', '.join(DTYPES)}")
    folder = converted(name, on_progress=on_progress)
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    tensors: Tensors = {}
    for file in weight_files(folder):
        tensors |= load_tensors(file)
    check_tensors(config, tensors)
    model = FastVLM(config)
    _assign(model, tensors, DTYPES[dtype] if dtype else device_dtype())
    if config.text is not None:
        model.tokenizer = Tokenizer(folder)
    model.eval()
    return model


def device_dtype() -> mx.Dtype:
    """The dtype that suits the default device."""
    return mx.float32 if on_cpu() else mx.bfloat16


def on_cpu() -> bool:
    return mx.default_device().type == mx.cpu


def converted(name: str | Path, *, on_progress: Progress | None = None) -> Path:
    """The folder in our format that `name` means, made in the cache if need be."""
    source = hub.locate(name)
    if is_converted(source):
        return source
    out = hub.converted_dir(source)
    if not is_converted(out):
        # Here, not above: a converted model needs none of the converter.
        from fastvlm_mlx.convert import to_mlx

        to_mlx.convert(source, out, first_wins=True, on_progress=on_progress)
    return out


def is_converted(folder: Path) -> bool:
    """Whether `folder` is a model folder of ours."""
    file = folder / "config.json"
    return file.is_file() and read_json(file).get("model_type") == FORMAT


def _assign(model: FastVLM, tensors: Tensors, dtype: mx.Dtype) -> None:
    settings = model.config.quantization
    if settings is not None and on_cpu():
        tensors = dequantized(tensors, settings, dtype)
    elif settings is not None:
        _quantize_layers(model, tensors, settings)
    cast = {
        name: array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array
        for name, array in tensors.items()
    }
    try:
        model.load_weights(list(cast.items()), strict=True)
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
