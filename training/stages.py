"""The paper's stages in miniature: 1 connector, 1.5 resolution, 2 instructions.

1    only the connector learns; encoder and language model stay as they were.
1.5  everything learns on captions, at several resolutions (resolution scaling).
2    everything learns on questions of every kind (visual instruction tuning).

Two aids that the paper does not have, because its parts arrive already trained: the
connector's tokens also follow the symbols' embedding, in stage 1 above all, and in 1.5
and 2 the dense heads of the pre-training keep a small share of the loss.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from training import drawing, language, pretrain, questions, symbols, world
from training.grounding import Grounding
from training.loop import Budget, Run
from training.model import IMAGE_SIZE, DemoFastVLM


@dataclass(frozen=True)
class Stage:
    """What a stage shows, and how fast each part learns (absent: frozen)."""

    name: str
    first_seed: int
    rates: dict[str, float]
    resolutions: dict[int, float]  # side in pixels: share of the batches
    captions: float  # share of batches that hold nothing but captions
    dense: float  # weight of the dense heads' loss
    follow: float  # weight of the distance from the symbols' embedding
    batch: int = 16


# A language model that does not learn is heard one step in this.
LISTEN = 4
# First seeds lie apart, so that no stage sees an image of another.
STAGES = (
    Stage("stage1", 20_000_000, {"projector": 3e-3}, {256: 1.0}, 0.0, 0.0, 1.0),
    Stage(
        "stage1.5", 30_000_000,
        {
            "encoder": 3e-4, "projector": 1e-3, "language": 5e-4, "heads": 1e-3,
            "ground": 1e-3,
        },
        {256: 0.5, 320: 0.25, 384: 0.25}, 0.5, 0.1, 1.0,
    ),
    Stage(
        "stage2", 40_000_000,
        {
            "encoder": 4e-4, "projector": 6e-4, "language": 6e-4, "heads": 1e-3,
            "ground": 1e-3,
        },
        {256: 0.88, 320: 0.06, 384: 0.06}, 0.0, 0.1, 0.3,
    ),
)  # fmt: skip


class Instructions(Dataset):
    """Batches of images with packed questions, labels and a resolution, by number."""

    def __init__(self, tokenizer: Tokenizer, stage: Stage, first: int, batches: int):
        self.packer, self.stage = language.Packer(tokenizer), stage
        self.first, self.batches = first, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        stage = self.stage
        first = stage.first_seed + (self.first + batch) * stage.batch
        rng = np.random.default_rng([first, 4])
        sides, shares = zip(*stage.resolutions.items(), strict=True)
        side = int(rng.choice(sides, p=shares))
        captions = rng.random() < stage.captions
        rows, pixels, visual, found = [], [], [], []
        for seed in range(first, first + stage.batch):
            scene = world.sample(seed)
            asked = questions.many(scene)
            if captions:
                asked = [pair for pair in asked if pair.kind == "describe"]
            asked = language.choose(rng, asked, symbols.PAIRS)
            rows.append(self.packer.pack(rng, asked, (side // 64) ** 2))
            pixels.append(drawing.render(scene))
            found.append(world.labels(scene))
            visual.append(symbols.symbols(found[-1]))
        out = language.collate(rows)
        out["pixels"] = torch.from_numpy(np.stack(pixels))
        out["labels"] = symbols.stack(visual)
        for name in world.LABELS:
            out[name] = torch.from_numpy(np.stack([getattr(f, name) for f in found]))
        out["side"] = torch.tensor(side)
        return out


def run(
    folder: Path,
    stage: Stage,
    model: DemoFastVLM,
    heads: nn.Module,
    embed: nn.Module,
    ground: Grounding,
    budget: Budget,
) -> None:
    """Train `model` through one stage, or go on where a checkpoint lies."""
    modules = {
        "encoder": model.encoder, "projector": model.projector,
        "language": model.language, "heads": heads, "ground": ground,
    }  # fmt: skip
    training = Run(stage.name, folder, modules, stage.rates, budget, save_every=50)
    # BatchNorm keeps the statistics of the pre-training: they are what will be folded.
    model.encoder.eval()
    embed.requires_grad_(False)
    if training.finished:
        return
    first = training.step
    data = Instructions(model.tokenizer, stage, first, budget.steps - first)
    batches = iter(pretrain.ahead(data))
    for _ in training.steps():
        batch = next(batches)
        pixels = pretrain.to_pixels(batch["pixels"])
        side = int(batch["side"])
        if side != IMAGE_SIZE:
            pixels = F.interpolate(pixels, (side, side), mode="bicubic").clamp(0, 1)
        with torch.set_grad_enabled("encoder" in stage.rates):
            tokens, stages = model.encoder.forward_stages(pixels)
        visual = model.projector(tokens)
        loss, shown = torch.zeros(()), {}
        if "language" in stage.rates or training.step % LISTEN == 0:
            loss, shown = symbols.language_loss(model.language, ground, batch, visual)
        if stage.follow and side == IMAGE_SIZE:
            words = model.language.get_input_embeddings().weight.detach()
            wanted = embed(words, batch["labels"])
            # Most tokens show nothing: the others decide what can be read.
            busy = 1 + 3 * (batch["labels"]["thing"] > 0).any(-1)
            gap = ((visual - wanted) ** 2).mean(-1) / wanted.var()
            gap = (gap * busy).sum() / busy.sum()
            loss, shown = loss + stage.follow * gap, shown | {"gap": gap}
        if stage.dense and side == IMAGE_SIZE:
            fine, coarse, _ = heads(tokens, stages[3])
            dense, seen = pretrain.dense_loss(fine, batch)
            early, _ = pretrain.dense_loss(coarse, batch)
            loss = loss + stage.dense * (dense + 0.5 * early)
            shown |= {"glyph": seen["glyph"]}
        training.update(loss, **shown)
