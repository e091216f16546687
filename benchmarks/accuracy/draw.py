"""Writes the drawn questions as a set that `fastvlm-mlx eval` scores.

    python -m benchmarks.accuracy.draw drawn --images 100
    fastvlm-mlx eval demo drawn --max-tokens 96

The questions and images are those of `python -m benchmarks.accuracy` with the same
`--images` and `--kinds`; a category is a look and a kind. An image is a PNG, so a model
sees the very same pixels.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from benchmarks.accuracy.asking import LOOKS, Question, draw_questions
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.files.atomic_write import staged_folder
from training import drawing, questions, world

FILE = "questions.jsonl"


def arguments() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.draw",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument("--images", type=int, default=100, help="for each kind")
    parser.add_argument(
        "--kinds", nargs="+", default=list(questions.KINDS), choices=questions.KINDS
    )
    return parser


def write(folder: Path, asked: Iterable[Question]) -> None:
    """Writes images and questions; nothing is at `folder` until all is written.

    Raises:
        OptionError: `folder` exists or cannot be written.
    """
    with staged_folder(folder) as partial:
        with (partial / FILE).open("w", encoding="utf-8") as file:
            for question in asked:
                each = question.as_evaluated()
                image = f"{each.id.replace('/', '-')}.png"
                scene = world.sample(question.seed, held_out=LOOKS[question.look])
                Image.fromarray(drawing.render(scene)).save(partial / image)
                row = {
                    "id": each.id,
                    "image": image,
                    "question": each.text,
                    "answers": list(each.answers),
                    "category": each.category,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main(given: Sequence[str] | None = None) -> None:
    options = arguments().parse_args(given)
    if options.images < 1:
        sys.exit(f"benchmarks.accuracy.draw: --images {options.images}: at least 1")
    try:
        write(options.folder, draw_questions(options.kinds, options.images))
    except (FastVLMError, FileNotFoundError) as fault:  # a folder, or a font
        sys.exit(f"benchmarks.accuracy.draw: {fault}")


if __name__ == "__main__":
    main()
