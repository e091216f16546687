"""Tensors of PyTorch's modules, rounded or quantized, and checkpoint folders of them.

The weights are written as safetensors in the order of their names.
"""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import torch
from safetensors.torch import save_file

from tests.support import reference_layouts
from tests.support.reference_layouts import Arrays

TOKENIZER = Path(__file__).parents[1] / "golden" / "tokenizer"
GROUP_SIZE, BITS = 32, 4


def shorten(module: torch.nn.Module) -> None:
    """Rounds what is stored of a float32 module to 12 bits of mantissa: a third of each
    number is then zeros, which git compresses away, and yet no 16-bit type holds it."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            bits = tensor.numpy().view(np.uint32)
            bits += 1 << 10
            bits &= 0xFFFFF800


def to_bfloat16(module: torch.nn.Module) -> None:
    """Rounds what is stored of a module to what bfloat16 can hold."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.bfloat16())


def arrays(module: torch.nn.Module) -> Arrays:
    """A copy of the state, less a head that is tied to the embeddings."""
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    tables = [name for name in state if name.endswith("embed_tokens.weight")]
    if tables and np.shares_memory(state[tables[0]], state["lm_head.weight"]):
        del state["lm_head.weight"]
    return {name: array.copy() for name, array in state.items()}


def quantize(tensors: Arrays, bits: int = BITS) -> tuple[Arrays, Arrays]:
    """The values that few bits leave, and the tensors that hold them, as in mlx-lm."""
    values, stored = dict(tensors), dict(tensors)
    for name, array in tensors.items():
        if array.ndim == 2:
            packed = mx.quantize(mx.array(array), group_size=GROUP_SIZE, bits=bits)
            restored = mx.dequantize(*packed, group_size=GROUP_SIZE, bits=bits)
            values[name] = np.array(restored)
            layer = name.removesuffix("weight")
            for part, data in zip(("weight", "scales", "biases"), packed, strict=True):
                stored[layer + part] = np.array(data)
    return values, stored


def load(module: torch.nn.Module, values: Arrays) -> None:
    state = {name: torch.from_numpy(array) for name, array in values.items()}
    module.load_state_dict(state, strict=False)


def write(
    folder: Path,
    shards: dict[str, Arrays],
    config: dict[str, Any],
    results: Arrays | None = None,
    dtype: torch.dtype = torch.float32,
    format: str = "pt",
) -> None:
    """A whole checkpoint folder, with an index if there are several shards."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    size, places = 0, {}
    for file, tensors in shards.items():
        stored = {name: torch.from_numpy(array) for name, array in tensors.items()}
        for name, tensor in stored.items():
            if tensor.is_floating_point():
                stored[name] = tensor.to(dtype)
            size += stored[name].nbytes
            places[name] = f"{file}.safetensors"
        save_file(stored, folder / f"{file}.safetensors", {"format": format})
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": places}
        write_json(folder / "model.safetensors.index.json", index)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", reference_layouts.LLAVA_GENERATION)
    if results is not None:
        np.savez_compressed(folder / "golden.npz", allow_pickle=False, **results)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
