"""Make the demo model from nothing: every stage, its score, its curves, its checkpoint.

    python -m training.run FOLDER              # goes on where it stopped
    python -m training.run FOLDER --minutes pretrain=54 stage2=30

FOLDER receives a state file per stage, `checkpoint/` (Apple's layout, unfused),
`curves.png` and `score.json`. Then: fastvlm-mlx convert FOLDER/checkpoint OUT.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from training import pretrain, stages, symbols
from training.curves import draw
from training.encoder import EncoderConfig
from training.grounding import Grounding
from training.loop import Budget
from training.model import DemoFastVLM
from training.score import score

STEPS = {
    "pretrain": 7200, "symbols": 18000, "stage1": 2000, "stage1.5": 100, "stage2": 6000,
}  # fmt: skip
MODEL_CARD = Path(__file__).parent / "MODEL_CARD.md"


def run(
    folder: Path,
    config: EncoderConfig,
    steps: dict[str, int],
    minutes: dict[str, float],
) -> DemoFastVLM:
    """All stages in order; finished ones are read from their state files."""
    tokenizer = symbols.load_tokenizer(folder)
    budget = {name: Budget(steps[name], minutes.get(name)) for name in steps}
    torch.manual_seed(2)
    model = DemoFastVLM(config, tokenizer)
    pretrain.run(folder, config, budget["pretrain"])
    state = torch.load(folder / "pretrain.pt", weights_only=True)
    model.encoder.load_state_dict(state["encoder"])
    heads = pretrain.Heads(config)
    heads.load_state_dict(state["heads"])
    symbols.run(folder, tokenizer, budget["symbols"])
    state = torch.load(folder / "symbols.pt", weights_only=True)
    model.language.load_state_dict(state["language"])
    embed = symbols.SymbolEmbedding(tokenizer, model.language.config.hidden_size)
    embed.load_state_dict(state["embed"])
    ground = Grounding(model.language.config.hidden_size)
    ground.load_state_dict(state["ground"])
    for stage in stages.STAGES:
        stages.run(folder, stage, model, heads, embed, ground, budget[stage.name])
        model.save(folder / "checkpoint")
        draw(folder)
    return model


def pairs(text: str) -> tuple[str, float]:
    """A "name=number" argument of --steps or --minutes."""
    name, _, number = text.partition("=")
    if name not in STEPS:
        known = ", ".join(STEPS)
        raise argparse.ArgumentTypeError(f"Unknown stage {name!r}: use {known}.")
    return name, float(number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where everything goes")
    parser.add_argument(
        "--multi-scale", choices=["none", "avgpool", "dwconv"], default="dwconv"
    )
    parser.add_argument("--steps", type=pairs, nargs="*", default=[], metavar="STAGE=N")
    parser.add_argument(
        "--minutes", type=pairs, nargs="*", default=[], metavar="STAGE=M",
        help="stop a stage after this much wall time",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=1000, help="images to score")
    options = parser.parse_args()
    multi_scale = None if options.multi_scale == "none" else options.multi_scale
    steps = STEPS | {name: int(number) for name, number in options.steps}
    config = EncoderConfig(multi_scale=multi_scale)
    model = run(options.folder, config, steps, dict(options.minutes))
    shutil.copy(MODEL_CARD, options.folder / "checkpoint" / "README.md")
    found = {
        look: score(model, options.images, held_out)
        for look, held_out in (("seen", False), ("held-out", True))
    }
    print(json.dumps(found))
    (options.folder / "score.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
