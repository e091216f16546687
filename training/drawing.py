"""Pixels of a scene: background, shapes, signs, then what a camera adds.

Edges are smoothed by drawing each shape's mask larger and halving it. Reproducible: all
chance comes from the scene's seed. Needs Pillow and the fonts listed below
(Debian packages named in training/README.md).
"""

import functools
import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from training.world import SIZE, Scene, Shape, Sign

SCALE = 2
FONT_FOLDERS = ("/usr/share/fonts/truetype", "/usr/share/fonts/opentype")
TRAINING_FONTS = (
    "dejavu/DejaVuSans.ttf dejavu/DejaVuSans-Bold.ttf dejavu/DejaVuSerif.ttf "
    "dejavu/DejaVuSerif-Bold.ttf dejavu/DejaVuSansMono-Bold.ttf "
    "dejavu/DejaVuSansCondensed-Bold.ttf liberation/LiberationSans-Regular.ttf "
    "liberation/LiberationSans-Bold.ttf liberation/LiberationSerif-Regular.ttf "
    "liberation/LiberationSerif-Bold.ttf liberation/LiberationMono-Bold.ttf "
    "liberation/LiberationSansNarrow-Bold.ttf freefont/FreeSans.ttf "
    "freefont/FreeSansBold.ttf freefont/FreeSerifBold.ttf freefont/FreeMonoBold.ttf "
    "lato/Lato-Regular.ttf lato/Lato-Bold.ttf lato/Lato-Black.ttf "
    "roboto/unhinted/RobotoTTF/Roboto-Regular.ttf "
    "roboto/unhinted/RobotoTTF/Roboto-Bold.ttf "
    "roboto/unhinted/RobotoCondensed-Bold.ttf cantarell/Cantarell-Regular.otf "
    "cantarell/Cantarell-Bold.otf comfortaa/Comfortaa-Bold.ttf "
    "crosextra/Carlito-Regular.ttf crosextra/Carlito-Bold.ttf "
    "crosextra/Caladea-Regular.ttf crosextra/Caladea-Bold.ttf "
    "cabin/Cabin-SemiBold.otf hack/Hack-Regular.ttf hack/Hack-Bold.ttf"
).split()
HELD_OUT_FONTS = ("open-sans/OpenSans-Semibold.ttf",)


def render(scene: Scene) -> np.ndarray:
    """The image of a scene: (SIZE, SIZE, 3) uint8."""
    # A stream of its own: the look of an image does not change what is in it.
    rng = np.random.default_rng([scene.seed, int(scene.held_out), 1])
    image = _backdrop(rng, scene.background)
    for shape in scene.shapes:
        _draw_shape(image, shape, outlined=bool(rng.random() < 0.25))
    for sign in scene.signs:
        fonts = HELD_OUT_FONTS if scene.held_out else TRAINING_FONTS
        _draw_sign(image, sign, str(rng.choice(fonts)), bool(rng.random() < 0.3))
    return _camera(rng, image)


def _backdrop(rng: np.random.Generator, base: tuple[int, int, int]) -> Image.Image:
    """Plain, a gradient, soft blotches, or stripes; the mean stays `base`."""
    kind = rng.integers(0, 4)
    if kind == 0:
        return Image.new("RGB", (SIZE, SIZE), base)
    if kind == 1:
        swing = rng.normal(0, 14, (2, 2, 3))
    elif kind == 2:
        cells = int(rng.integers(3, 24))
        swing = rng.normal(0, 9, (cells, cells, 3))
    else:
        period = int(rng.integers(6, 40))
        wave = ((np.arange(64) * period // 64) % 2 * 2.0 - 1) * rng.uniform(4, 12)
        swing = np.broadcast_to(wave[None, :, None], (64, 64, 3))
        if rng.random() < 0.5:
            swing = swing.transpose(1, 0, 2)
    tile = np.clip(np.array(base) + swing, 0, 255).astype(np.uint8)
    return Image.fromarray(tile).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def _outline(shape: Shape) -> list[tuple[float, float]]:
    """Corners of a shape, turned, in units of its radius (circles have none)."""
    if shape.kind == "square":
        points = [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    elif shape.kind == "triangle":
        points = [(0.0, -0.95), (0.9, 0.75), (-0.9, 0.75)]
    elif shape.kind == "star":
        points = []
        for i in range(10):
            reach, turn = (1.0, 0.42)[i % 2], math.pi * i / 5
            points.append((reach * math.sin(turn), -reach * math.cos(turn)))
    elif shape.kind == "cross":
        a, b = 0.3, 0.92
        points = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)]
        points += [(a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    else:  # the usual heart curve
        ts = [2 * math.pi * i / 28 for i in range(28)]
        points = [
            (
                math.sin(t) ** 3 * 0.98,
                -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t)
                  - math.cos(4 * t)) / 16,
            )
            for t in ts
        ]  # fmt: skip
    turn = math.radians(shape.angle)
    cos, sin = math.cos(turn), math.sin(turn)
    return [(px * cos - py * sin, px * sin + py * cos) for px, py in points]


def _draw_shape(image: Image.Image, shape: Shape, outlined: bool) -> None:
    # The mask's corner lies on a whole pixel; the rest of the position is inside it.
    left, top = int(shape.x - shape.radius) - 3, int(shape.y - shape.radius) - 3
    side = int(2 * shape.radius) + 8
    x, y = SCALE * (shape.x - left), SCALE * (shape.y - top)
    coats = [(1.0, shape.rgb)]
    if outlined:  # a darker rim under a smaller copy
        coats = [(1.0, tuple(int(c * 0.6) for c in shape.rgb)), (0.86, shape.rgb)]
    for reach, fill in coats:
        mask = Image.new("L", (side * SCALE, side * SCALE))
        draw, r = ImageDraw.Draw(mask), SCALE * shape.radius * reach
        if shape.kind == "circle":
            draw.ellipse((x - 0.92 * r, y - 0.92 * r, x + 0.92 * r, y + 0.92 * r), 255)
        else:
            draw.polygon([(x + px * r, y + py * r) for px, py in _outline(shape)], 255)
        box = (left, top, left + side, top + side)
        image.paste(fill, box, mask.reduce(SCALE))


@functools.lru_cache(maxsize=4096)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    for folder in FONT_FOLDERS:
        if (Path(folder) / name).exists():
            # The basic layout engine gives the same pixels on every machine.
            engine, path = ImageFont.Layout.BASIC, str(Path(folder) / name)
            return ImageFont.truetype(path, size, layout_engine=engine)
    raise FileNotFoundError(
        f"Font {name} is not under {' or '.join(FONT_FOLDERS)}: "
        "install the packages listed in training/README.md."
    )


def _draw_sign(image: Image.Image, sign: Sign, font_name: str, border: bool) -> None:
    width, height = int(sign.width), int(sign.height)
    board = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    draw = ImageDraw.Draw(board)
    corner = height // 5 if sign.rounded else 0
    edge = sign.ink_rgb if border else None
    box = (0, 0, width - 1, height - 1)
    draw.rounded_rectangle(box, corner, sign.board_rgb, edge, width=2)
    font = _font(font_name, int(sign.font_size))
    middle = (len(sign.text) - 1) / 2
    # Capitals sit on the base line: their middle is 0.36 em above it.
    base = height / 2 + 0.36 * sign.font_size
    for i, character in enumerate(sign.text):
        x = width / 2 + (i - middle) * sign.pitch
        draw.text((x, base), character, sign.ink_rgb, font, anchor="ms")
    turned = board.rotate(sign.angle, Image.Resampling.BILINEAR, expand=True)
    left = round(sign.x - turned.width / 2)
    top = round(sign.y - turned.height / 2)
    image.paste(turned, (left, top), turned)


@functools.cache
def _grain() -> np.ndarray:
    """One tile of unit noise (int16, times 64): cropped at random, it is cheap."""
    noise = np.random.default_rng(7).normal(0, 64, (SIZE * 2, SIZE * 2, 3))
    return noise.astype(np.int16)


def _camera(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """Blur, uneven light, grain and JPEG, each in some of the images."""
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.15:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(40, 90)))
        image = Image.open(buffer)
    pixels = np.asarray(image).astype(np.int16)
    if rng.random() < 0.5:
        ramp = np.linspace(*rng.uniform(0.84, 1.04, 2), SIZE)
        light = (ramp * 256).astype(np.int16)
        light = light[None, :, None] if rng.random() < 0.5 else light[:, None, None]
        pixels = (pixels.astype(np.int32) * light >> 8).astype(np.int16)
    if rng.random() < 0.6:
        y, x = rng.integers(0, SIZE, 2)
        grain = _grain()[y : y + SIZE, x : x + SIZE]
        pixels = pixels + (grain * int(rng.integers(1, 10)) >> 6)
    return np.clip(pixels, 0, 255).astype(np.uint8)
