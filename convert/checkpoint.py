"""Any published checkpoint as one `Checkpoint`: a config and named arrays, lazily.

Reads folders (one safetensors file or shards with an index), single files, the `.zip`
that Apple serves, and pickles where torch is installed. Tensors come out in
PyTorch's layout under the names of `names.py`; nothing is read from disk before it
is used, so a checkpoint larger than memory can be converted shard by shard.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx.config import FORMAT, read_json
from fastvlm_mlx.convert import names
from contextlib import nullcontext as unpacked
from fastvlm_mlx.convert.names import Layout
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.tensors import Tensors, load_tensors, weight_files


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read but not folded.

    `tensors` hold everything under our train-time names; quantised layers keep their
    `scales` and `biases`. `coreml_encoder` is the package that stands in for the
    encoder in Apple's MLX exports. `folder` has the tokenizer and the licence files.
    """

    folder: Path
    layout: Layout
    config: dict[str, Any]
    tensors: Tensors
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
def opened(source: Path) -> Iterator[Checkpoint]:
    """Reads a folder, a `.zip`, or one weight file.

    The tensors are valid inside the `with` block only: an archive is unpacked into a
    temporary folder that is removed at the end.

    Raises:
        CheckpointError: nothing there, an unknown layout, or damaged files.
    """
    if source.suffix == ".zip":
        with unpacked(source) as folder:
            yield read(folder)
    else:
        yield read(source)


def read(source: Path) -> Checkpoint:
    """Reads a folder or one weight file; see `opened`."""
    if not source.exists():
        raise CheckpointError(
            f"{source}: no such file or folder; give a checkpoint's path"
        )
    files = weight_files(source)
    folder = source if source.is_dir() else source.parent
    stored: Tensors = {}
    for file in files:
        stored |= load_tensors(file)
    has_config = (folder / "config.json").exists()
    config = read_json(folder / "config.json") if has_config else {}
    if config.get("model_type") == FORMAT:
        layout, tensors = names.OURS, stored
    else:
        layout = names.detect(list(stored))
        renamed = names.rename(list(stored), layout)
        tensors = {new: stored[old] for old, new in renamed.items()}
    if not has_config and any(name.startswith("language_model.") for name in tensors):
        raise CheckpointError(
            f"{folder}: no config.json beside the weights; download it too"
        )
    package = next(iter(sorted(folder.glob("*.mlpackage"))), None)
    return Checkpoint(
        folder=folder,
        layout=layout,
        config=config,
        tensors=_pytorch_layout(tensors) if layout.channels_last else tensors,
        coreml_encoder=package,
        size=sum(file.stat().st_size for file in files),
    )


def _pytorch_layout(tensors: Tensors) -> Tensors:
    """MLX's convolutions (out, kH, kW, in) back to (out, in, kH, kW), which the folds
    are written in. Lazy: costs nothing until the fold."""
    return {
        name: value.transpose(0, 3, 1, 2)
        if name.startswith("vision_tower.") and value.ndim == 4
        else value
        for name, value in tensors.items()
    }
