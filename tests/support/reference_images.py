"""The test images of `tests/references/images`, and what plain PIL makes of them.

Five are photographs that scikit-image's wheel holds (public domain or CC0), scaled
down; the page is drawn here. Between them they are RGB, greyscale, palette, JPEG,
landscape, portrait and square.
"""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageFont

SIZE = 256
PHOTOGRAPHS = {
    "astronaut.png": (128, 128),
    "chelsea.png": (192, 128),
    "coffee.png": (192, 128),
    "coins.png": (152, 120),
    "rocket.jpg": (144, 96),
}
VERSE = (
    "Tyger Tyger, burning bright,",
    "In the forests of the night;",
    "What immortal hand or eye,",
    "Could frame thy fearful symmetry?",
)


def write(folder: Path) -> dict[str, np.ndarray]:
    """Writes the images and `preprocess_pad_256.npz`; returns the latter's arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(skimage.data_dir)
    for name, size in PHOTOGRAPHS.items():
        with Image.open(source / name) as whole:
            image = whole.resize(size, Image.Resampling.LANCZOS)
        if name == "chelsea.png":
            image = image.quantize(64, dither=Image.Dither.NONE)
        if name == "rocket.jpg":
            image = image.crop((48, 0, 112, 96))
        image.save(folder / name, optimize=True, quality=80)
    page().save(folder / "page.png", optimize=True)
    padded = {}
    for path in sorted(folder.glob("*.[pj][np]g")):
        with Image.open(path) as image:
            padded[path.name] = pad(image)
    np.savez_compressed(folder / "preprocess_pad_256.npz", allow_pickle=False, **padded)
    return padded


def page() -> Image.Image:
    """A printed page of a poem (William Blake, 1794), lit from one side."""
    width, height = 160, 210
    paper = Image.linear_gradient("L").rotate(90).resize((width, height))
    image = paper.point([200 + level // 6 for level in range(256)])
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=9)
    for number in range(13):
        line = VERSE[number % 5] if number % 5 < 4 else ""
        draw.text((6, 6 + 15 * number), line, fill=40, font=font)
    return image


def pad(image: Image.Image) -> np.ndarray:
    """LLaVA's `image_aspect_ratio: pad`: RGB, centred on a black square of the longer
    side, then PIL's bicubic filter. uint8, (256, 256, 3)."""
    image = image.convert("RGB")
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
