"""A scripted sequence for `watch`: scenes with and without a red circle."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fastvlm_mlx.conversation.choose import Choice

QUESTION = "Is there a red circle?"
RED, BLUE, GREEN = (220, 20, 20), (30, 60, 220), (30, 150, 60)
# Near misses among them: the colour or the shape alone is right.
SCRIPT = (
    ("square", BLUE),
    ("circle", RED),
    ("circle", BLUE),
    ("square", RED),
    ("circle", RED),
    ("triangle", GREEN),
)
FIRES = (1, 4)  # of SCRIPT


def scene(kind: str, colour: tuple[int, int, int], size: int = 256) -> Image.Image:
    """A shape in the middle of a plain background."""
    image = Image.new("RGB", (256, 256), (200, 200, 190))
    draw = ImageDraw.Draw(image)
    if kind == "circle":
        draw.ellipse((70, 70, 190, 190), fill=colour)
    elif kind == "square":
        draw.rectangle((70, 70, 190, 190), fill=colour)
    else:
        draw.polygon([(128, 60), (200, 190), (56, 190)], fill=colour)
    return image if size == 256 else image.resize((size, size))


def put(folder: Path, number: int, image: Image.Image, *, second: int) -> Path:
    """Writes an image as a camera does: elsewhere first, then renamed."""
    part = folder.parent / "part.png"
    image.save(part)
    written = 1_700_000_000 + second
    os.utime(part, (written, written))
    path = folder / f"{number:03}.png"
    os.replace(part, path)
    return path


class RedModel:
    """Answers by the colour in the middle, at once: red is a red circle."""

    def __init__(self) -> None:
        self.asked = 0

    def choose(self, question: str, image: Any, choices: Any, **options: Any) -> Choice:
        assert question == QUESTION
        self.asked += 1
        yes = 0.9 if self._is_red(image) else 0.05
        values = (yes, 1 - yes, 0.0, 0.0)
        return Choice(choices[0], tuple(choices), values, (0.0,) * 4, (1,) * 4)

    def conversation(self, *given: Any, **options: Any) -> "RedModel":
        return self

    def answer(self, prompt: str, image: Any, sampling: Any, *, cancel: Any) -> Any:
        class Chunk:
            text = "It is red." if self._is_red(image) else "It is not red."

        yield Chunk()

    def _is_red(self, image: Any) -> bool:
        red, green, blue = np.asarray(image.convert("RGB"))[128, 128].astype(int)
        return red > 150 and max(green, blue) < 100
