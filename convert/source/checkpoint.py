"""Any published checkpoint as one `Checkpoint`: a config and named arrays, lazily.

Reads folders (one safetensors file or shards with an index), single files, the `.zip`
that Apple serves, and pickles where torch is installed. Tensors come out in
PyTorch's layout under the names of `names.py`; nothing is read from disk before it
is used, so a checkpoint larger than memory can be converted shard by shard.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx.convert.source import layouts
from fastvlm_mlx.convert.source.archive import unpacked
from fastvlm_mlx.convert.source.layouts import Layout
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.model.config import FORMAT
from fastvlm_mlx.weights.weight_files import Tensors, load_tensors, weight_files


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read but not folded.

    `tensors` hold everything under our train-time names; quantized layers keep their
    `scales` and `biases`, and `quantization` says how they are packed, its layers
    under our names too. `coreml_encoder` is the package that stands in for the
    encoder in Apple's MLX exports. `folder` has the tokenizer and the licence files.
    """

    name: str
    folder: Path
    layout: Layout
    config: dict[str, Any]
    tensors: Tensors
    quantization: dict[str, Any] | None
    coreml_encoder: Path | None
    size: int

    def part(self, name: str) -> Tensors:
        """The tensors of `vision_tower`, `projector` or `language_model`."""
        return {
            key: value
            for key, value in self.tensors.items()
            if key.startswith(f"{name}.")
        }


@contextmanager
def opened(
    source: Path, on_progress: Callable[[int, int], None] | None = None
) -> Iterator[Checkpoint]:
    """Reads a folder, a `.zip`, or one weight file.

    The tensors are valid inside the `with` block only: an archive is unpacked into a
    temporary folder that is removed at the end. `on_progress` is told of unpacking:
    (bytes done, bytes in all).

    Raises:
        CheckpointError: nothing there, an unknown layout, or damaged files.
    """
    if source.suffix.lower() == ".zip":
        with unpacked(source, on_progress=on_progress) as folder:
            try:
                yield read(folder, source.stem)
            except CheckpointError as fault:
                # The folder will be gone when the message is read.
                message = str(fault).replace(str(folder), str(source))
                raise CheckpointError(message) from fault
    else:
        yield read(source, source.resolve().name)


def read(source: Path, name: str) -> Checkpoint:
    """Reads a folder or one weight file; see `opened`. `name` is what to call it."""
    if not source.exists():
        raise CheckpointError(
            f"{source}: no such file or folder; give a checkpoint's path"
        )
    files = weight_files(source)
    folder = source if source.is_dir() else source.parent
    stored: Tensors = {}
    for file in files:
        tensors = load_tensors(file)
        if twice := stored.keys() & tensors.keys():
            raise CheckpointError(
                f"{file}: tensor {min(twice)} is in another file too; keep the files"
                " of one checkpoint in the folder"
            )
        stored |= tensors
    has_config = (folder / "config.json").exists()
    config = read_json(folder / "config.json", optional=True)
    if config.get("model_type") == FORMAT:
        layout, renamed = layouts.OURS, {name: name for name in stored}
    else:
        layout = layouts.detect(list(stored))
        renamed = layouts.rename(list(stored), layout)
    tensors = {new: stored[old] for old, new in renamed.items()}
    if not has_config and any(name.startswith("language_model.") for name in tensors):
        raise CheckpointError(
            f"{folder}: no config.json beside the weights; download it too"
        )
    package = next(iter(sorted(folder.glob("*.mlpackage"))), None)
    return Checkpoint(
        name=name,
        folder=folder,
        layout=layout,
        config=config,
        tensors=_pytorch_layout(tensors) if layout.channels_last else tensors,
        quantization=_quantization(config, renamed),
        coreml_encoder=package,
        size=sum(file.stat().st_size for file in files),
    )


def _quantization(
    config: dict[str, Any], renamed: dict[str, str]
) -> dict[str, Any] | None:
    """How layers are packed: for all, and for single layers by the checkpoint's own
    names, which become ours."""
    # mlx-lm writes the same under both keys; transformers knows the second only.
    settings = config.get("quantization") or config.get("quantization_config")
    if settings is None:
        return None
    if not isinstance(settings, dict):
        raise CheckpointError(
            f"config.json: quantization is {settings!r:.200}, not an object;"
            " get the right config.json"
        )
    layers = {
        old.rpartition(".")[0]: new.rpartition(".")[0] for old, new in renamed.items()
    }
    return {layers.get(str(key), str(key)): value for key, value in settings.items()}


def _pytorch_layout(tensors: Tensors) -> Tensors:
    """MLX's convolutions (out, kH, kW, in) back to (out, in, kH, kW), which the folds
    are written in. Lazy: costs nothing until the fold."""
    return {
        name: value.transpose(0, 3, 1, 2)
        if name.startswith("vision_tower.") and value.ndim == 4
        else value
        for name, value in tensors.items()
    }
