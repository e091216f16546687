"""The images of examples/, with questions and right answers, from fixed seeds.

    python -m training.examples examples

They come from seeds that no training stage draws and are chosen by eye, not by what
the model answers.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from training import drawing, questions, world

SEED = 3_000_000_000
# file: kind of scene, offset to SEED
IMAGES = {
    "shapes": ("shapes", 10),
    "crowd": ("shapes", 15),
    "word": ("sign", 8),
    "number": ("sign", 11),
    "beach": ("mixed", 10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    asked = {}
    for name, (kind, offset) in IMAGES.items():
        scene = world.sample(SEED + offset, kind)
        Image.fromarray(drawing.render(scene)).save(
            folder / f"{name}.png", optimize=True
        )
        asked[f"{name}.png"] = [
            {"kind": pair.kind, "question": pair.question, "answer": pair.answer}
            for pair in questions.pairs(scene)
        ]
    (folder / "questions.json").write_text(json.dumps(asked, indent=1) + "\n")


if __name__ == "__main__":
    main()
