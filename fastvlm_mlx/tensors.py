"""Weight files: which belong to a checkpoint, and their tensors, lazily.

Nothing is read from disk before it is used, so a checkpoint larger than memory can be
converted shard by shard.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from fastvlm_mlx.config import read_json
from fastvlm_mlx.errors import CheckpointError

Tensors = dict[str, mx.array]

PICKLES = (".bin", ".pt", ".pth")
INDEX = "model.safetensors.index.json"


def parameters(module: nn.Module) -> Tensors:
    """A module's parameters by their dotted names."""
    return dict(tree_flatten(module.parameters()))  # pyright: ignore


def weight_files(source: Path) -> list[Path]:
    """The files that hold a checkpoint's weights: those the index names, or else
    every safetensors file, or else every pickle.

    Raises:
        CheckpointError: there are none, or the index names one that is missing.
    """
    if source.is_file():
        if source.suffix not in (".safetensors", *PICKLES):
            raise CheckpointError(
                f"{source}: not a checkpoint; give a folder, a .zip, or a .safetensors"
            )
        return [source]
    if (source / INDEX).exists():
        shards = read_json(source / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise CheckpointError(
                f"{source / INDEX}: has no weight_map; download the file again"
            )
        files = [source / str(name) for name in sorted(set(shards.values()))]
        for file in files:
            if file.parent.resolve() != source.resolve() or not file.is_file():
                raise CheckpointError(
                    f"{file}: this shard, which {INDEX} names, is missing;"
                    " download it too"
                )
        return files
    for suffixes in ((".safetensors",), PICKLES):
        files = sorted(f for f in source.iterdir() if f.suffix in suffixes)
        if files:
            return files
    raise CheckpointError(
        f"{source}: no weights there (*.safetensors); give a checkpoint's folder"
    )


def load_tensors(file: Path) -> Tensors:
    """The tensors of one file, unread until used.

    Raises:
        CheckpointError: the file is damaged, or a pickle and torch is not installed.
    """
    if file.suffix in PICKLES:
        return _load_pickle(file)
    try:
        loaded = mx.load(str(file), format="safetensors")
    except (RuntimeError, ValueError, OSError) as fault:
        reason = str(fault).splitlines()[0].removeprefix("[load_safetensors] ")
        raise CheckpointError(
            f"{file}: damaged or incomplete ({reason}); download it again"
        ) from fault
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file}: holds no named tensors; download it again")
    return loaded


def _load_pickle(file: Path) -> Tensors:
    # A pickle can run any code; only torch's restricted reader is let near one.
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as fault:
        raise CheckpointError(
            f"{file}: a pickle needs torch to be read safely; pip install"
            " 'fastvlm-mlx[torch]', or get the checkpoint as .safetensors"
        ) from fault
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as fault:  # torch raises many kinds on a bad file
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise CheckpointError(
            f"{file}: not a plain checkpoint ({reason:.120}); get it as .safetensors"
        ) from fault
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{file}: holds a {type(state).__name__}, not named tensors"
        )
    return {
        name: _from_torch(value)
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }


def _from_torch(tensor: Any) -> mx.array:
    import torch  # pyright: ignore[reportMissingImports]

    # NumPy has no bfloat16: carry its bits.
    if tensor.dtype == torch.bfloat16:
        return mx.array(tensor.view(torch.int16).numpy()).view(mx.bfloat16)
    return mx.array(tensor.numpy())
