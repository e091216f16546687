"""Before the paper's stages: the encoder learns from dense labels of the world.

Apple starts from a MobileCLIP encoder trained on a billion captions; we start from
nothing, so each 32-pixel square says what stands in it. Two linear heads read that,
one from the finished tokens (2 x 2 squares each) and one from stage 3 (one each);
both are thrown away afterwards.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from training import drawing, world
from training.encoder import EncoderConfig, FastViTHD
from training.loop import Budget, Run

BATCH = 16
COLOURS = len(world.COLOUR_NAMES)
# What is there, its colour, its place (x, y, half size), the sign behind it, and for
# a character its place in the word: reading is then a matter of looking up.
PARTS = (world.NUM_THINGS, COLOURS, 3, 1 + COLOURS, 1 + world.LONGEST)


class Images(Dataset):
    """Batches of rendered scenes and their labels, drawn when asked for by number."""

    def __init__(self, first: int, batches: int, dense: float = 0.6):
        self.first, self.batches, self.dense = first, batches, dense

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        pixels, found = [], []
        first = (self.first + batch) * BATCH
        for seed in range(first, first + BATCH):
            kind = "dense" if (seed * 0.618034) % 1 < self.dense else None
            scene = world.sample(seed, kind)
            pixels.append(drawing.render(scene))
            found.append(world.labels(scene))
        out = {"pixels": torch.from_numpy(np.stack(pixels))}
        for name in world.LABELS:
            out[name] = torch.from_numpy(np.stack([getattr(f, name) for f in found]))
        return out


def ahead(data: Dataset) -> DataLoader:
    """Batches prepared by a process of its own while the model learns."""
    return DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=8)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in 0..1, channels last in memory."""
    return images.permute(0, 3, 1, 2).float().div_(255)


class Heads(nn.Module):
    """Linear probes on the tokens and on stage 3, and the place of each token."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.tokens = nn.Linear(config.output_dim, 4 * sum(PARTS))
        self.stage = nn.Linear(config.embed_dims[3], sum(PARTS))
        self.index = nn.Linear(config.output_dim, 16)

    def forward(self, tokens: torch.Tensor, stage: torch.Tensor):
        B = len(tokens)
        # [B, 16, 4 * parts] -> [B, 4, 4, 2, 2, parts] -> [B, 8, 8, parts]
        fine = self.tokens(tokens).reshape(B, 4, 4, 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
        fine = fine.reshape(B, world.GRID, world.GRID, -1)
        return fine, self.stage(stage.permute(0, 2, 3, 1)), self.index(tokens)


def dense_loss(found: torch.Tensor, batch: dict) -> tuple[torch.Tensor, dict]:
    """Loss of (B, GRID, GRID, parts) against the labels, and accuracies to watch."""
    thing, colour, place, board, rank = found.split(PARTS, dim=-1)
    there = batch["thing"] > 0
    # Six squares in seven are empty: what stands in the others has a term of its own.
    loss = F.cross_entropy(thing.flatten(0, 2), batch["thing"].flatten())
    loss = loss + 3 * F.cross_entropy(thing[there], batch["thing"][there])
    loss = loss + F.cross_entropy(rank[there], batch["rank"][there])
    loss = loss + F.cross_entropy(colour[there], batch["colour"][there])
    loss = loss + 10 * F.smooth_l1_loss(place[there], batch["place"][there], beta=0.02)
    loss = loss + F.cross_entropy(board.flatten(0, 2), batch["board"].flatten())
    guess = thing.argmax(-1)
    right = (guess == batch["thing"])[there]
    glyph = batch["thing"][there] > len(world.SHAPES)
    shown = {
        "glyph": right[glyph].float().mean(),
        "shape": right[~glyph].float().mean(),
        "colour": (colour.argmax(-1) == batch["colour"])[there].float().mean(),
        "rank": (rank.argmax(-1) == batch["rank"])[there].float().mean(),
        "empty": (guess == 0)[~there].float().mean(),
    }
    return loss, shown


def run(folder: Path, config: EncoderConfig, budget: Budget, name: str = "pretrain"):
    """Train, or go on training, and return the encoder."""
    torch.manual_seed(0)
    encoder = FastViTHD(config).to(memory_format=torch.channels_last)
    heads = Heads(config)
    modules = {"encoder": encoder, "heads": heads}
    training = Run(name, folder, modules, {"encoder": 1.5e-3, "heads": 1.5e-3}, budget)
    if training.finished:
        return encoder
    images = Images(training.step, budget.steps - training.step)
    batches = iter(ahead(images))
    for _ in training.steps():
        batch = next(batches)
        tokens, stages = encoder.forward_stages(to_pixels(batch["pixels"]))
        fine, coarse, index = heads(tokens, stages[3])
        loss, shown = dense_loss(fine, batch)
        early, _ = dense_loss(coarse, batch)
        cells = torch.arange(16).repeat(len(index))
        where = F.cross_entropy(index.flatten(0, 1), cells)
        training.update(loss + 0.5 * early + 0.1 * where, **shown)
    return encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where checkpoints go")
    parser.add_argument("--steps", type=int, default=7200, help="batches of 16 images")
    parser.add_argument("--minutes", type=float, help="stop after this much wall time")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run(options.folder, EncoderConfig(), Budget(options.steps, options.minutes))


if __name__ == "__main__":
    main()
