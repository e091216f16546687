"""Draws flags of three stripes and writes down whose they are: data to learn from.

    python examples/draw_flags.py flag-images

makes flag-images/train and flag-images/test: images of 256 x 256 pixels, and a
captions.csv in each. No flag looks like another: size, place, tilt, shades, light and
background are drawn by chance, from a seed, so every run makes the same images.
"""

import csv
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIZE = 256
QUESTION = "Which country's flag is this?"
COLOURS = {
    "black": (20, 20, 22),
    "blue": (20, 60, 160),
    "green": (10, 130, 60),
    "orange": (245, 130, 30),
    "red": (200, 25, 45),
    "white": (245, 245, 245),
    "yellow": (250, 210, 30),
}
# From left to right, then from top to bottom. In capitals, as words on signs are: the
# demo model never wrote the small letters that these names need.
VERTICAL = {
    "BELGIUM": "black yellow red",
    "FRANCE": "blue white red",
    "IRELAND": "green white orange",
    "ITALY": "green white red",
    "MALI": "green yellow red",
    "ROMANIA": "blue yellow red",
}
HORIZONTAL = {
    "BULGARIA": "white green red",
    "ESTONIA": "blue black white",
    "GERMANY": "black red yellow",
    "HUNGARY": "red white green",
    "NETHERLANDS": "red white blue",
    "RUSSIA": "white blue red",
}
COUNTRIES = sorted(VERTICAL | HORIZONTAL)
IMAGES = {"train": 200, "test": 120}


def shade(chance: random.Random, name: str) -> tuple[int, ...]:
    """A colour as some cloth has it."""
    light = chance.uniform(0.88, 1.04)
    return tuple(
        min(max(round(light * part + chance.uniform(-10, 10)), 0), 255)
        for part in COLOURS[name]
    )


def cloth(chance: random.Random, country: str, width: int, height: int) -> Image.Image:
    """The flag alone, its stripes straight."""
    across = country in VERTICAL
    names = (VERTICAL if across else HORIZONTAL)[country].split()
    flag = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(flag)
    for place, name in enumerate(names):
        start, end = place / 3, (place + 1) / 3
        box = (
            (start * width, 0, end * width, height)
            if across
            else (0, start * height, width, end * height)
        )
        pen.rectangle(box, shade(chance, name))
    # Folds: a soft pattern of light and shadow.
    folds = Image.new("L", (5, 3))
    folds.putdata([chance.randrange(205, 256) for _ in range(15)])
    folds = folds.resize(flag.size, Image.Resampling.BICUBIC)
    return ImageChops.multiply(flag, Image.merge("RGB", [folds] * 3))


def photo(chance: random.Random, country: str) -> Image.Image:
    """A flag somewhere before a plain background."""
    ground = tuple(chance.randrange(90, 200) for _ in range(3))
    image = Image.new("RGB", (SIZE, SIZE), ground)
    width = chance.randrange(150, 226)
    height = round(width * chance.uniform(0.55, 0.7))
    flag = cloth(chance, country, width, height).convert("RGBA")
    flag = flag.rotate(chance.uniform(-8, 8), Image.Resampling.BICUBIC, expand=True)
    left = chance.randrange(0, SIZE - flag.width + 1) if flag.width < SIZE else 0
    top = chance.randrange(0, SIZE - flag.height + 1)
    image.paste(flag, (left, top), flag)
    if chance.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.4, 1.4)))
    return image


def draw(folder: Path) -> Iterator[Path]:
    """Writes both sets into `folder`; yields the path of each list."""
    for number, (name, count) in enumerate(IMAGES.items()):
        chance = random.Random(number)
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        with open(place / "captions.csv", "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["file", "question", "answer"])
            for index in range(count):
                country = COUNTRIES[index % len(COUNTRIES)]
                path = place / f"{index:03}.png"
                photo(chance, country).save(path)
                rows.writerow([path.name, QUESTION, country])
        yield place / "captions.csv"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/draw_flags.py FOLDER")
    for path in draw(Path(sys.argv[1])):
        print(path)
