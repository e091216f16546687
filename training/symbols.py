"""Before the paper's stages: the language model learns to speak about scenes.

The paper starts from Qwen2, which knows language; we start from nothing. So that the
connector of stage 1 has a language model worth connecting to, ours is first taught on
scenes given as symbols: each image token is a linear embedding of the labels of its
2 x 2 squares. No image is drawn, and the embedding is thrown away afterwards.
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
from training.grounding import Grounding
from training.loop import Budget, Run

BATCH = 8  # small: what is missing at first is steps, not examples
PAIRS = 10  # questions asked of one scene
TOKENS = 16
GROUND = 1.0  # weight of what the names in the questions stand for
COLOURS = len(world.COLOUR_NAMES)
# Up to these batches, scenes hold at most so many things and no caption is asked.
LESSONS = ((400, 1), (2000, 3))


def symbols(found: world.Labels) -> dict[str, np.ndarray]:
    """Labels of a scene, sorted by image token: (16, 4) for its 2 x 2 squares."""

    def by_token(grid: np.ndarray) -> np.ndarray:
        # [8, 8, ...] -> [4, 2, 4, 2, ...] -> [16, 4, ...]
        grid = grid.reshape(4, 2, 4, 2, *grid.shape[2:]).swapaxes(1, 2)
        return grid.reshape(TOKENS, 4, *grid.shape[4:])

    return {name: by_token(getattr(found, name)) for name in world.LABELS}


class SymbolEmbedding(nn.Module):
    """Labels to image tokens, in the language model's own words.

    A red circle is the sum of what the model has for "red" and "circle", changed a
    little by role (thing, colour, sign) and by which of the four squares it is in. So
    answering starts as copying, which a small model learns soon.
    """

    def __init__(self, tokenizer: Tokenizer, hidden: int):
        super().__init__()
        things = [[], *map(_forms, world.SHAPES), *([c] for c in world.CHARACTERS)]
        colours = [_forms(name) for name in world.COLOUR_NAMES]
        words = {"thing": things, "colour": colours, "board": [[], *colours]}
        for name, forms in words.items():
            table = torch.zeros(len(forms), tokenizer.get_vocab_size())
            for row, texts in enumerate(forms):
                for text in texts:
                    table[row, tokenizer.encode(text).ids[0]] = 1.0
            self.register_buffer(name, table, persistent=False)
        self.roles = nn.Parameter(_near_identity(3, hidden))
        self.squares = nn.Parameter(_near_identity(4, hidden))
        self.place = nn.Linear(3, hidden)
        self.rank = nn.Embedding(1 + world.LONGEST, hidden)
        self.index = nn.Parameter(0.06 * torch.randn(TOKENS, hidden))
        nn.init.normal_(self.rank.weight, std=0.06)

    def forward(self, words: torch.Tensor, found: dict) -> torch.Tensor:
        """`words` (V, hidden) and labels (B, 16, 4) -> (B, 16, hidden)."""
        words = words[: self.thing.shape[1]]
        there = (found["thing"] > 0)[..., None]
        thing, colour, board = (
            (getattr(self, name) @ words @ role)
            for name, role in zip(("thing", "colour", "board"), self.roles, strict=True)
        )
        out = thing[found["thing"]] + there * colour[found["colour"].clamp(min=0)]
        out = out + board[found["board"]] / 2
        out = out + there * (self.place(found["place"]) + self.rank(found["rank"]))
        # [B, 16, 4, hidden] x [4, hidden, hidden] -> [B, 16, hidden]
        return torch.einsum("btkh,khd->btd", out, self.squares) + self.index


def _forms(word: str) -> list[str]:
    return [word, " " + word]


def _near_identity(number: int, hidden: int) -> torch.Tensor:
    noise = torch.randn(number, hidden, hidden) * 0.3 / hidden**0.5
    return torch.eye(hidden) + noise


def stack(rows: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Labels of several scenes as one batch."""
    return {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in rows[0]}


def _small(seed: int, most: int) -> world.Scene:
    """A scene of at most so many shapes and signs, where looking is learned first."""
    while True:
        scene = world.sample(seed)
        if len(scene.shapes) + len(scene.signs) <= most:
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
        most = next((n for end, n in LESSONS if self.first + batch < end), None)
        for seed in range(first, first + BATCH):
            rng = np.random.default_rng([seed, 3])
            scene = _small(seed, most) if most else world.sample(seed)
            asked = questions.many(scene)
            if most or rng.random() < 0.6:  # captions are long: fewer of them
                asked = [pair for pair in asked if pair.kind != "describe"]
            asked = language.choose(rng, asked, PAIRS)
            rows.append(self.packer.pack(rng, asked, TOKENS))
            visual.append(symbols(world.labels(scene)))
        return language.collate(rows) | {"labels": stack(visual)}


def language_loss(
    model, ground: Grounding, batch: dict, visual: torch.Tensor
) -> tuple[torch.Tensor, dict]:
    """Weighted mean loss of the answers' tokens with the grounding's share, and what
    to watch. `visual` (B, tokens, hidden) takes the places where ids are -1."""
    states = model.model(
        inputs_embeds=language.with_image(model, batch["ids"], visual),
        attention_mask=batch["mask"],
        position_ids=batch["position"],
        use_cache=False,
        output_hidden_states=True,
    )
    targets = batch["targets"][:, 1:]
    learned = targets != -100
    logits = model.lm_head(states.last_hidden_state[:, :-1][learned])
    wanted, weight = targets[learned], batch["weight"][:, 1:][learned]
    loss = F.cross_entropy(logits, wanted, reduction="none") @ weight / weight.sum()
    grounded, shown = ground(states.hidden_states, batch["named"])
    shown["token"] = (logits.argmax(-1) == wanted).float().mean()
    return loss + GROUND * grounded, shown


def run(folder: Path, tokenizer: Tokenizer, budget: Budget):
    """Teach, or go on teaching, and return the language model."""
    torch.manual_seed(1)
    model = language.language_model(tokenizer)
    embed = SymbolEmbedding(tokenizer, model.config.hidden_size)
    ground = Grounding(model.config.hidden_size)
    modules = {"language": model, "embed": embed, "ground": ground}
    rates = {"language": 1e-3, "embed": 1e-3, "ground": 1e-3}
    training = Run("symbols", folder, modules, rates, budget, save_every=200)
    if training.finished:
        return model
    scenes = SymbolScenes(tokenizer, training.step, budget.steps - training.step)
    batches = iter(pretrain.ahead(scenes))
    for _ in training.steps():
        batch = next(batches)
        visual = embed(model.get_input_embeddings().weight, batch["labels"])
        visual = visual + 0.02 * torch.randn_like(visual)
        loss, shown = language_loss(model, ground, batch, visual)
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
    parser.add_argument("--steps", type=int, default=18000, help="batches of 8 scenes")
    parser.add_argument("--minutes", type=float, help="stop after this much wall time")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer = load_tokenizer(options.folder)
    run(options.folder, tokenizer, Budget(options.steps, options.minutes))


if __name__ == "__main__":
    main()
