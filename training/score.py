"""Exact match per kind of question, in PyTorch, on held-out images.

Greedy decoding gives the right answer exactly when every token of it is the likeliest
one after the right tokens before it. So one pass over a packed sequence scores all
questions about an image. The product's own path is scored by benchmarks/accuracy.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from training import drawing, language, pretrain, questions, symbols, world
from training.encoder import EncoderConfig
from training.model import DemoFastVLM

FIRST_SEED = 1_000_000_000  # far above every training seed


@torch.no_grad()
def score(
    model: DemoFastVLM, images: int, held_out: bool = False, batch: int = 16
) -> dict[str, tuple[int, int]]:
    """kind -> (right, asked) over the images' questions."""
    model.eval()
    packer = language.Packer(model.tokenizer, talk=0.0)
    right, asked = Counter(), Counter()
    for first in range(FIRST_SEED, FIRST_SEED + images, batch):
        scenes = [world.sample(first + i, held_out=held_out) for i in range(batch)]
        pairs = [questions.pairs(scene) for scene in scenes]
        rng = np.random.default_rng(0)
        packed = language.collate([packer.pack(rng, p, symbols.TOKENS) for p in pairs])
        pixels = torch.from_numpy(np.stack([drawing.render(s) for s in scenes]))
        visual = model.projector(model.encoder(pretrain.to_pixels(pixels)))
        for row, hits in enumerate(_hits(model.language, packed, visual)):
            for turn, pair in enumerate(pairs[row]):
                asked[pair.kind] += 1
                right[pair.kind] += bool(hits[turn])
    return {kind: (right[kind], asked[kind]) for kind in questions.KINDS}


def _hits(model, packed: dict, visual: torch.Tensor) -> list[list[bool]]:
    """For each sequence, whether each pair's answer is right in every token."""
    logits = model(
        inputs_embeds=language.with_image(model, packed["ids"], visual),
        attention_mask=packed["mask"],
        position_ids=packed["position"],
        use_cache=False,
    ).logits
    targets = packed["targets"][:, 1:]
    wrong = (logits[:, :-1].argmax(-1) != targets) & (targets != -100)
    segment = packed["segment"][:, 1:]
    return [
        [
            not wrong[row][segment[row] == turn + 1].any()
            for turn in range(segment[row].max())
        ]
        for row in range(len(targets))
    ]


def read(checkpoint: Path) -> DemoFastVLM:
    """The unfused model of a checkpoint folder."""
    config = json.loads((checkpoint / "config.json").read_text())
    encoder = EncoderConfig(multi_scale=config.get("mm_multi_scale"))
    model = DemoFastVLM(encoder, symbols.load_tokenizer(checkpoint))
    model.load_tensors(load_file(checkpoint / "model.safetensors"))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=480)
    parser.add_argument(
        "--held-out", action="store_true", help="unseen font and colours"
    )
    options = parser.parse_args()
    found = score(read(options.checkpoint), options.images, options.held_out)
    for kind, (right, asked) in found.items():
        print(f"{kind:10} {right / max(asked, 1):7.1%}  of {asked}")


if __name__ == "__main__":
    main()
