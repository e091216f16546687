"""Before the paper's stages: the language model learns to speak about scenes.

The paper starts from Qwen2, which knows language; we start from nothing. So that the
connector of stage 1 has a language model worth connecting to, ours is first taught on
scenes given as symbols: each picture token is a linear embedding of the labels of its
2 x 2 squares. No picture is drawn, and the embedding is thrown away afterwards.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from training import language, pretrain, questions, world
from training.loop import Budget, Run

BATCH = 16
PAIRS = 8  # questions asked of one scene
TOKENS = 16
EASY = 900  # first batches, of scenes with a single thing in them
COLOURS = len(world.COLOUR_NAMES)
SYMBOL_DIM = 4 * sum(pretrain.PARTS) + TOKENS


def symbols(found: world.Labels) -> np.ndarray:
    """Labels of a scene as (16, SYMBOL_DIM) floats, one row for each picture token."""
    thing = np.eye(world.NUM_THINGS, dtype=np.float32)[found.thing]
    colour = np.eye(COLOURS, dtype=np.float32)[found.colour.clip(0)]
    colour = colour * (found.colour >= 0)[..., None]
    board = np.eye(1 + COLOURS, dtype=np.float32)[found.board]
    rank = np.eye(1 + world.LONGEST, dtype=np.float32)[found.rank]
    # [8, 8, parts] -> [4, 2, 4, 2, parts] -> [16, 4 * parts]
    parts = np.concatenate([thing, colour, 2 * found.place, board, rank], -1)
    parts = parts.reshape(4, 2, 4, 2, -1).transpose(0, 2, 1, 3, 4).reshape(TOKENS, -1)
    return np.concatenate([parts, np.eye(TOKENS, dtype=np.float32)], -1)


def _one_thing(seed: int) -> world.Scene:
    """A scene of one shape or one sign: where looking at all is learned first."""
    while True:
        scene = world.sample(seed)
        if len(scene.shapes) + len(scene.signs) == 1:
            return scene
        seed += 100_000_000


class SymbolScenes(Dataset):
    """Batches of symbolic scenes with packed questions, by number."""

    def __init__(self, tokenizer: Tokenizer, first: int, batches: int):
        self.packer = language.Packer(tokenizer)
        self.first, self.batches = first, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, batch: int) -> dict[str, torch.Tensor]:
        rows, visual = [], []
        first = (self.first + batch) * BATCH
        easy = self.first + batch < EASY
        for seed in range(first, first + BATCH):
            rng = np.random.default_rng([seed, 3])
            scene = _one_thing(seed) if easy else world.sample(seed)
            asked = questions.pairs(scene)
            if easy or rng.random() < 0.6:  # captions are long: fewer of them
                asked = [pair for pair in asked if pair.kind != "describe"]
            asked = language.choose(rng, asked, PAIRS)
            rows.append(self.packer.pack(rng, asked, TOKENS))
            row = symbols(world.labels(scene))
            visual.append(row + rng.normal(0, 0.05, row.shape).astype(np.float32))
        out = language.collate(rows)
        out["visual"] = torch.from_numpy(np.stack(visual).astype(np.float32))
        return out


def language_loss(
    model, batch: dict, visual: torch.Tensor
) -> tuple[torch.Tensor, dict]:
    """Mean loss of the answers' tokens, and the share of tokens and answers right.

    `visual` (B, tokens, hidden) takes the places where ids are -1.
    """
    ids = batch["ids"]
    embeds = model.get_input_embeddings()(ids.clamp(min=0))
    at = int((ids[0] == -1).nonzero()[0, 0])
    embeds = torch.cat([embeds[:, :at], visual, embeds[:, at + visual.shape[1] :]], 1)
    hidden = model.model(
        inputs_embeds=embeds,
        attention_mask=batch["mask"],
        position_ids=batch["position"],
        use_cache=False,
    ).last_hidden_state
    targets = batch["targets"][:, 1:]
    learned = targets != -100
    logits, wanted = model.lm_head(hidden[:, :-1][learned]), targets[learned]
    right = logits.argmax(-1) == wanted
    return F.cross_entropy(logits, wanted), {"token": right.float().mean()}


def run(folder: Path, tokenizer: Tokenizer, budget: Budget):
    """Teach, or go on teaching, and return the language model."""
    torch.manual_seed(1)
    model = language.language_model(tokenizer)
    embed = nn.Linear(SYMBOL_DIM, model.config.hidden_size)
    modules = {"language": model, "embed": embed}
    rates = {"language": 2.5e-3, "embed": 2.5e-3}
    training = Run("symbols", folder, modules, rates, budget, save_every=200)
    if training.finished:
        return model
    scenes = SymbolScenes(tokenizer, training.step, budget.steps - training.step)
    batches = iter(pretrain.ahead(scenes))
    for _ in training.steps():
        batch = next(batches)
        loss, shown = language_loss(model, batch, embed(batch["visual"]))
        training.update(loss, **shown)
    return model


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer under `folder`, trained and saved on first use."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer.json").exists():
        language.save_tokenizer(language.train_tokenizer(), folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where checkpoints go")
    parser.add_argument("--steps", type=int, default=5000, help="batches of 16 scenes")
    parser.add_argument("--minutes", type=float, help="stop after this much wall time")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(options.folder)
    run(options.folder, tokenizer, Budget(options.steps, options.minutes))


if __name__ == "__main__":
    main()
