"""Writes `tests/references`: small checkpoints of every layout, with PyTorch's results.

    python -m tests.support.make_references [OUT]

Needs the `parity` group. A second run on one machine gives the same files byte for
byte. Another version of PyTorch, or another processor, may round the last bits of the
goldens differently, and one of scikit-image, Pillow or zlib may change the images.
"""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import tokenizers
import torch
from safetensors.torch import save_file

from tests.support import reference_images, reference_layouts
from tests.support.reference_goldens import DoubtfulAnswer, golden
from tests.support.reference_layouts import Arrays
from tests.support.reference_models import FastVlm, Llava, Sizes

TESTS = Path(__file__).parents[1]
TOKENIZER = TESTS / "golden" / "tokenizer"
GROUP_SIZE, BITS = 32, 4
T = TypeVar("T")
# The first seeds whose greedy answers are beyond doubt; later ones are tried if a
# version of PyTorch makes one doubtful.
SEEDS = {"llava-mini": 11, "llava-mini-train": 3, "hf-mini": 16}
TEXTS = (
    "Describe the image.",
    "How many red circles are there?",
    "中文:请描述这张图片。",
    "emoji 👩‍👩‍👧 and naïve café",
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
    "\nWhat does it say?<|im_end|>\n<|im_start|>assistant\n",
    "tabs\tand\r\nnewlines   trailing  ",
)


def make(out: Path) -> None:
    images = reference_images.write(out / "images")
    make_tokenizer(out / "tokenizer")
    make_llava(out, images)
    make_llava_train(out, images)
    make_hf(out, images)


def make_tokenizer(folder: Path) -> None:
    """What the `tokenizers` library makes of a few texts."""
    library = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
    entries = [{"text": text, "ids": library.encode(text).ids} for text in TEXTS]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "golden.json", entries)


def make_llava(out: Path, images: Arrays) -> None:
    """Apple's release, mlx-vlm's conversion of it, and that quantized: one model."""
    sizes = Sizes()

    def build(seed: int) -> tuple[list[Arrays], Arrays, Arrays, Arrays]:
        model = Llava(sizes, seed)
        for part in model.parts:
            shorten(part)
        parts = [arrays(part) for part in model.parts]
        whole = golden(model, images)
        values, stored = quantize(parts[2])
        load(model.language_model, values)
        return parts, whole, stored, golden(model, images)

    parts, whole, stored, narrow = settled("llava-mini", build)
    config = reference_layouts.llava_config(sizes, "float32")
    write(out / "llava-mini", {"model": reference_layouts.llava(*parts)}, config, whole)

    config |= {"vision_config": {}}
    shards = {"model": reference_layouts.mlx_community(*parts)}
    write(out / "mlx-community-mini", shards, config, whole, format="mlx")

    config |= {"quantization": {"group_size": GROUP_SIZE, "bits": BITS}}
    encoder, projector, _ = parts
    shards = {"model": reference_layouts.mlx_community(encoder, projector, stored)}
    write(out / "mlx-community-mini-4bit", shards, config, narrow, format="mlx")


def make_llava_train(out: Path, images: Arrays) -> None:
    """A training checkpoint: bfloat16, every branch apart, its own head, two shards.
    The golden is of the unfused network with the stored values, in float32."""
    sizes = replace(Sizes(), fused=False, tied=False)

    def build(seed: int) -> tuple[list[Arrays], Arrays]:
        model = Llava(sizes, seed)
        for part in model.parts:
            to_bfloat16(part)
        return [arrays(part) for part in model.parts], golden(model, images)

    parts, results = settled("llava-mini-train", build)
    tensors = reference_layouts.llava(*parts)
    names = sorted(tensors)
    half = len(names) // 2
    shards = {
        f"model-{number}-of-00002": {name: tensors[name] for name in part}
        for number, part in (("00001", names[:half]), ("00002", names[half:]))
    }
    config = reference_layouts.llava_config(sizes, "bfloat16")
    write(out / "llava-mini-train", shards, config, results, dtype=torch.bfloat16)


def make_hf(out: Path, images: Arrays) -> None:
    """transformers' `fast_vlm`, by its own class from end to end."""

    def build(seed: int) -> tuple[FastVlm, Arrays]:
        model = FastVlm(Sizes(), seed)
        shorten(model.model)
        return model, golden(model, images)

    model, results = settled("hf-mini", build)
    config = model.model.config.to_diff_dict()
    config |= {
        "architectures": ["FastVlmForConditionalGeneration"],
        "dtype": "float32",
    }
    config["text_config"] |= {"bos_token_id": 1536, "eos_token_id": 1538}
    folder = out / "hf-mini"
    write(folder, {"model": arrays(model.model)}, config, results)
    write_json(folder / "generation_config.json", reference_layouts.HF_GENERATION)


def settled(layout: str, build: Callable[[int], T]) -> T:
    """What `build` makes of the first seed whose answers are beyond doubt."""
    seed = SEEDS[layout]
    while True:
        try:
            return build(seed)
        except DoubtfulAnswer as error:
            print(f"{layout}, seed {seed}: {error}")
        seed += 1


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


def quantize(tensors: Arrays) -> tuple[Arrays, Arrays]:
    """The values that 4 bits leave, and the tensors that hold them, as mlx-lm does."""
    values, stored = dict(tensors), dict(tensors)
    for name, array in tensors.items():
        if array.ndim == 2:
            packed = mx.quantize(mx.array(array), group_size=GROUP_SIZE, bits=BITS)
            restored = mx.dequantize(*packed, group_size=GROUP_SIZE, bits=BITS)
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
    results: Arrays,
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
    np.savez_compressed(folder / "golden.npz", allow_pickle=False, **results)


def write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else TESTS / "references")
