"""Opens a checkpoint of any known layout: its config and its tensors, unread.

Opens folders (one safetensors file, or shards with an index), single files, the `.zip`
that Apple publishes, and, if torch is installed, pickles. Tensors have PyTorch's layout
and the names of `layouts.py`. MLX reads a tensor from disk when it is first used, so a
checkpoint larger than memory can be converted shard by shard.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx.convert.source import layouts
from fastvlm_mlx.convert.source.archive import unpack_archive
from fastvlm_mlx.convert.source.layouts import Layout
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.model.config import FORMAT
from fastvlm_mlx.weights.weight_files import (
    Tensors,
    load_tensors,
    reading,
    weight_files,
)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint with our train-time tensor names, not folded.

    Attributes:
        name: the folder's or archive's name.
        folder: where the tokenizer and the licence files are.
        layout: as detected.
        config: the content of config.json, {} if there is none.
        tensors: by our names; quantized layers keep their `scales` and `biases`.
        quantization: how layers are packed: `group_size` and `bits`, and the same
            under a layer's (our) name where it differs; None if nothing is quantized.
        coreml_encoder: the package that replaces the encoder in Apple's MLX exports.
        size: bytes of the weight files.
    """

    name: str
    folder: Path
    layout: Layout
    config: dict[str, Any]
    tensors: Tensors
    quantization: dict[str, Any] | None
    coreml_encoder: Path | None
    size: int

    def tensors_of(self, name: str) -> Tensors:
        """The tensors of `vision_tower`, `projector` or `language_model`, by full
        name."""
        return {
            key: value
            for key, value in self.tensors.items()
            if key.startswith(f"{name}.")
        }


@contextmanager
def open_checkpoint(
    source: Path, on_progress: Callable[[int, int], None] | None = None
) -> Iterator[Checkpoint]:
    """Opens a folder, a `.zip`, or one weight file.

    The tensors are valid inside the `with` block only: an archive is unpacked into a
    temporary folder that is removed at the end.

    Args:
        source: the path.
        on_progress: called with (bytes done, bytes in all) while unpacking.
    Raises:
        CheckpointError: nothing there, an unknown layout, or damaged files.
    """
    if source.suffix.lower() == ".zip":
        with unpack_archive(source, on_progress=on_progress) as folder:
            try:
                yield read_checkpoint(folder, source.stem)
            except CheckpointError as fault:
                # The user knows the archive, not the temporary folder.
                message = str(fault).replace(str(folder), str(source))
                raise CheckpointError(message) from fault
    else:
        with reading(source):
            yield read_checkpoint(source, source.resolve().name)


def read_checkpoint(source: Path, name: str) -> Checkpoint:
    """The checkpoint in a folder or one weight file; errors as `open_checkpoint`."""
    if not source.exists():
        raise CheckpointError(
            f"{source}: no such file or folder; give a checkpoint's path"
        )
    files = weight_files(source)
    folder = source if source.is_dir() else source.parent
    stored: Tensors = {}
    for file in files:
        tensors = load_tensors(file)
        if duplicates := stored.keys() & tensors.keys():
            raise CheckpointError(
                f"{file}: tensor {min(duplicates)} is in another file too; keep the"
                " files of one checkpoint in the folder"
            )
        stored |= tensors
    has_config = (folder / "config.json").exists()
    config = read_json(folder / "config.json", optional=True)
    if config.get("model_type") == FORMAT:
        layout, renamed = layouts.OWN_LAYOUT, {name: name for name in stored}
    else:
        layout = layouts.detect(list(stored))
        renamed = layouts.rename(list(stored), layout)
    tensors = {new: stored[old] for old, new in renamed.items()}
    if not has_config and any(name.startswith("language_model.") for name in tensors):
        raise CheckpointError(
            f"{folder}: no config.json beside the weights; download it too"
        )
    # Not macOS' `._NAME.mlpackage`, which is a file.
    packages = sorted(path for path in folder.glob("*.mlpackage") if path.is_dir())
    package = next(iter(packages), None)
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
    """The config's quantization settings, with layer names replaced by ours."""
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
    """Transposes the encoder's kernels from MLX's (out, kH, kW, in) to PyTorch's
    (out, in, kH, kW), which the folds expect. Lazy: computed when folded."""
    return {
        name: value.transpose(0, 3, 1, 2)
        if name.startswith("vision_tower.") and value.ndim == 4
        else value
        for name, value in tensors.items()
    }
