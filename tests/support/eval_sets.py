"""Small sets of questions for the tests of `eval`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.mock_model import make_image

TEXTS = (
    "What is this?",
    "Which colour has the largest thing in the image?",
    "Is there a dog? Answer yes or no.",
)


def make_set(folder: Path, count: int = 12, images: int = 4) -> Path:
    """Questions of two categories about `images` images; the path of the JSON lines."""
    folder.mkdir(exist_ok=True)
    for seed in range(images):
        make_image(seed).save(folder / f"{seed}.png")
    rows = [
        {
            "id": f"q{number}",
            "image": f"{number % images}.png",
            "question": f"{TEXTS[number % len(TEXTS)]} {number}",
            "answer": "yes",
            "category": ("odd", "even")[number % 2],
        }
        for number in range(count)
    ]
    return write_rows(folder / "questions.jsonl", rows)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of answers."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
