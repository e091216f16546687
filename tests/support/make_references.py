"""Writes `tests/references`: small checkpoints of every layout, with PyTorch's results.

    python -m tests.support.make_references [OUT]

Needs the `parity` group. A second run on one machine gives the same files byte for
byte. Another version of PyTorch, or another processor, may round the last bits of the
goldens differently, and one of scikit-image, Pillow or zlib may change the images.
"""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import tokenizers
import torch

from tests.support import reference_images, reference_layouts
from tests.support.reference_files import (
    BITS,
    GROUP_SIZE,
    TOKENIZER,
    arrays,
    load,
    quantize,
    shorten,
    to_bfloat16,
    write,
    write_json,
)
from tests.support.reference_goldens import DoubtfulAnswer, golden
from tests.support.reference_layouts import Arrays
from tests.support.reference_models import FastVlm, Llava, Sizes

T = TypeVar("T")
REFERENCES = Path(__file__).parents[1] / "references"
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
    shards = {"model": arrays(model.model)}
    write(out / "hf-mini", shards, model.config(), results)
    write_json(
        out / "hf-mini" / "generation_config.json", reference_layouts.HF_GENERATION
    )


def settled(layout: str, build: Callable[[int], T]) -> T:
    """What `build` makes of the first seed whose answers are beyond doubt."""
    seed = SEEDS[layout]
    while True:
        try:
            return build(seed)
        except DoubtfulAnswer as error:
            print(f"{layout}, seed {seed}: {error}")
        seed += 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else REFERENCES)
