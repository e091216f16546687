"""From a name to a loaded model; anything unconverted is converted once, and kept."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from fastvlm_mlx import cache, hub
from fastvlm_mlx.cache import drop_superseded
from fastvlm_mlx.device import DTYPES, device_dtype
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.model.config import FORMAT, ModelConfig
from fastvlm_mlx.model.parameters import assign, check_tensors
from fastvlm_mlx.model.vlm import FastVLM
from fastvlm_mlx.tensors import Tensors, load_tensors, weight_files
from fastvlm_mlx.tokenizer import Tokenizer

Progress = Callable[[int, int], None]


def load(
    name: str | Path = "demo",
    *,
    dtype: str | None = None,
    on_progress: Progress | None = None,
) -> FastVLM:
    """Loads a model, converting it once into the cache if it is not ours yet.

    Reading the weights has begun when it returns, the encoder's first; the model can
    be used at once, from any thread.

    Args:
        name: `demo`, `0.5b`, `1.5b`, `7b`, a hub id, or a path to a folder, `.zip` or
            weight file in any known layout.
        dtype: float32, float16 or bfloat16; the device's own by default
                (see `device.py`).
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
    model = FastVLM(config)
    check_tensors(model, tensors)
    assign(model, tensors, DTYPES[dtype] if dtype else device_dtype())
    if config.text is not None:
        model.tokenizer = Tokenizer(folder)
    model.eval()
    # Since MLX 0.31.2 only the thread that described an array can start computing it.
    parameters = model.parameters()
    for part in ("vision_tower", "projector", "language_model"):
        mx.async_eval(parameters.get(part, []))
    return model


def converted(name: str | Path, *, on_progress: Progress | None = None) -> Path:
    """The folder in our format that `name` means, made in the cache if need be."""
    source = hub.locate(name)
    if is_converted(source):
        return source
    out = cache.converted_dir(source)
    if not is_converted(out):
        # Here, not above: a converted model needs none of the converter.
        from fastvlm_mlx.convert import to_mlx

        to_mlx.convert(source, out, first_wins=True, on_progress=on_progress)
        drop_superseded(out)
    return out


def is_converted(folder: Path) -> bool:
    """Whether `folder` is a model folder of ours."""
    file = folder / "config.json"
    return file.is_file() and read_json(file).get("model_type") == FORMAT
