"""The image world: scenes of coloured shapes and signs, drawn from a seed.

A scene is plain data (frozen dataclasses); `drawing.py` turns it into pixels,
`questions.py` into questions and answers, `labels` below into the dense targets of
the encoder's pre-training. Only numpy is needed here, so tests and benchmarks can
import it. Lengths are pixels of a SIZE x SIZE image, angles are degrees.
"""

import colorsys
from dataclasses import dataclass

import numpy as np

from training.words import word

SIZE = 256
GRID = 8  # labels are kept per 32 x 32 pixel square: 2 x 2 squares to a token
SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

# name: hue, saturation and value ranges of the training look, then those of the
# held-out look, which training never draws. Names stay those a person would give.
COLOURS = {
    "red": (((-4, 6), (0.75, 1), (0.7, 1)), ((351, 354), (0.7, 0.9), (0.66, 0.9))),
    "orange": (((22, 33), (0.8, 1), (0.85, 1)), ((34.5, 37), (0.8, 1), (0.85, 1))),
    "yellow": (((50, 58), (0.75, 1), (0.88, 1)), ((47, 49), (0.8, 1), (0.9, 1))),
    "green": (((95, 145), (0.6, 1), (0.45, 0.8)), ((148, 155), (0.6, 1), (0.4, 0.8))),
    "blue": (((208, 230), (0.7, 1), (0.6, 1)), ((232, 238), (0.7, 1), (0.6, 1))),
    "purple": (
        ((268, 285), (0.5, 0.9), (0.4, 0.8)),
        ((287, 292), (0.5, 0.9), (0.4, 0.8)),
    ),
    "pink": (((325, 342), (0.35, 0.6), (0.92, 1)), ((320, 324), (0.35, 0.6), (0.9, 1))),
    "black": (((0, 360), (0, 0.2), (0.02, 0.13)), ((0, 360), (0, 0.2), (0.14, 0.17))),
    "white": (((0, 360), (0, 0.04), (0.95, 1)), ((0, 360), (0.04, 0.07), (0.92, 0.95))),
}  # fmt: skip
COLOUR_NAMES = tuple(COLOURS)


@dataclass(frozen=True)
class Shape:
    """A filled shape; `radius` is half its extent."""

    kind: str
    colour: str
    rgb: tuple[int, int, int]
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Sign:
    """A board with one line of evenly spaced capitals or digits, turned by `angle`."""

    text: str
    board: str
    board_rgb: tuple[int, int, int]
    ink: str
    ink_rgb: tuple[int, int, int]
    x: float
    y: float
    width: float
    height: float
    pitch: float
    font_size: float
    angle: float
    rounded: bool

    def centres(self) -> list[tuple[float, float]]:
        """Where each character stands, after the turn (counter-clockwise)."""
        turn, middle = np.deg2rad(-self.angle), (len(self.text) - 1) / 2
        steps = [(i - middle) * self.pitch for i in range(len(self.text))]
        return [(self.x + s * np.cos(turn), self.y + s * np.sin(turn)) for s in steps]


@dataclass(frozen=True)
class Scene:
    """Everything that determines an image, `seed` included (background, noise)."""

    seed: int
    held_out: bool
    background: tuple[int, int, int]
    shapes: tuple[Shape, ...]
    signs: tuple[Sign, ...]


def sample(seed: int, kind: str | None = None, held_out: bool = False) -> Scene:
    """The scene of a seed.

    `kind` is "shapes", "sign", "mixed" or "dense" (pre-training only: rows of signs
    and shapes); None draws one of the first three. `held_out` takes the colour
    ranges, the font and the words that training never shows.
    """
    # The two looks and the kinds must not share random streams by accident.
    rng = np.random.default_rng([seed, int(held_out)])
    if kind is None:
        kind = rng.choice(["shapes", "sign", "mixed"], p=[0.5, 0.32, 0.18])
    if kind == "dense":
        shapes, signs = _dense(rng, held_out)
    elif kind == "shapes":
        shapes, signs = _shapes(rng, int(rng.integers(1, 7)), [], held_out), []
    elif kind == "sign":
        shapes, signs = [], [_sign(rng, held_out)]
    elif kind == "mixed":
        signs = [_sign(rng, held_out, small=True)]
        shapes = _shapes(rng, int(rng.integers(1, 4)), signs, held_out)
    else:
        raise ValueError(f"Unknown kind of scene: {kind!r}.")
    fills = [s.rgb for s in shapes] + [s.board_rgb for s in signs]
    return Scene(seed, held_out, _background(rng, fills), tuple(shapes), tuple(signs))


def _rgb(rng: np.random.Generator, name: str, held_out: bool) -> tuple[int, int, int]:
    hue, saturation, value = COLOURS[name][int(held_out)]
    h, s, v = rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value)
    r, g, b = colorsys.hsv_to_rgb((h % 360) / 360, s, v)
    return round(r * 255), round(g * 255), round(b * 255)


def _background(rng: np.random.Generator, fills: list) -> tuple[int, int, int]:
    """A muted colour that stands off from every fill (best of a few draws)."""
    best, best_distance = (128, 128, 128), -1.0
    for _ in range(12):
        s = rng.uniform(0, 0.35) if rng.random() < 0.8 else rng.uniform(0.35, 0.7)
        h, v = rng.random(), rng.uniform(0.15, 0.97)
        rgb = np.array(colorsys.hsv_to_rgb(h, s, v)) * 255
        distance = min(np.linalg.norm(rgb - np.array(fill)) for fill in fills)
        if distance > best_distance:
            best, best_distance = tuple(int(c) for c in rgb), distance
        if distance > 95:
            break
    return best


def _shape(rng, x: float, y: float, radius: float, held_out: bool) -> Shape:
    colour = str(rng.choice(COLOUR_NAMES))
    kind = str(rng.choice(SHAPES))
    # Beyond 20 degrees a square would be called a diamond, a cross an X.
    angle = rng.uniform(-18, 18)
    return Shape(kind, colour, _rgb(rng, colour, held_out), x, y, radius, angle)


def _shapes(rng, count: int, signs: list[Sign], held_out: bool) -> list[Shape]:
    """`count` shapes that overlap neither each other nor a sign."""
    largest = {1: 70, 2: 60, 3: 50, 4: 46, 5: 42, 6: 40}[count] if not signs else 38
    found: list[tuple[float, float, float]] = []
    tries = 0
    while len(found) < count:
        tries += 1
        # A crowded start is given up: smaller shapes always fit.
        radius = rng.uniform(20, max(22, largest - tries / 20))
        x, y = rng.uniform(radius + 2, SIZE - radius - 2, 2)
        clear = all(np.hypot(x - a, y - b) > radius + r + 5 for a, b, r in found)
        for sign in signs:
            slack = abs(np.sin(np.deg2rad(sign.angle))) * sign.width / 2 + 5
            if abs(y - sign.y) < radius + sign.height / 2 + slack:
                clear = clear and abs(x - sign.x) > radius + sign.width / 2 + 5
        if clear:
            found.append((x, y, radius))
        if tries > 400:
            found, tries = [], 0
    return [_shape(rng, x, y, r, held_out) for x, y, r in found]


def _sign(rng, held_out: bool, small: bool = False, row: float | None = None) -> Sign:
    text = word(rng, held_out)
    if row is not None:
        letters = text.isalpha()
        pool = CHARACTERS[:26] if letters else CHARACTERS[26:]
        text = "".join(rng.choice(list(pool), size=rng.integers(4, 7)))
    widest = 150 if small else 232
    pitch = rng.uniform(34, max(36, min(62, widest / (len(text) + 0.4))))
    font_size = pitch / rng.uniform(0.78, 1.0)
    width = pitch * (len(text) + rng.uniform(0.2, 0.7))
    height = font_size * rng.uniform(1.1, 1.7)
    angle = rng.uniform(-8, 8) if row is None else rng.uniform(-3, 3)
    half_x, half_y = width / 2, height / 2 + abs(np.sin(np.deg2rad(angle))) * width / 2
    x = rng.uniform(min(half_x, 128), max(SIZE - half_x, 128))
    y = rng.uniform(half_y, SIZE - half_y) if row is None else row
    board = str(rng.choice(COLOUR_NAMES))
    board_rgb = _rgb(rng, board, held_out)
    ink, ink_rgb = board, board_rgb
    while np.abs(_luma(ink_rgb) - _luma(board_rgb)) < 70:
        ink = str(rng.choice(COLOUR_NAMES, p=INK_WEIGHTS))
        ink_rgb = _rgb(rng, ink, held_out)
    return Sign(
        text, board, board_rgb, ink, ink_rgb, x, y, width, height, pitch, font_size,
        angle, bool(rng.random() < 0.5),
    )  # fmt: skip


INK_WEIGHTS = [0.3 if n in ("black", "white") else 0.4 / 7 for n in COLOUR_NAMES]


def _luma(rgb: tuple[int, int, int]) -> float:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def _dense(rng, held_out: bool) -> tuple[list[Shape], list[Sign]]:
    """Three rows, each a line of text or a line of shapes: many labels an image."""
    shapes, signs = [], []
    for row in (44.0, 128.0, 212.0):
        y = row + rng.uniform(-6, 6)
        if rng.random() < 0.72:
            signs.append(_sign(rng, held_out, row=y))
            continue
        count = int(rng.integers(2, 5))
        for i in range(count):
            x = (i + 0.5) * SIZE / count + rng.uniform(-4, 4)
            radius = rng.uniform(18, min(40, SIZE / count / 2 - 4))
            shapes.append(_shape(rng, x, y, radius, held_out))
    return shapes, signs


@dataclass(frozen=True)
class Labels:
    """Dense targets, each (GRID, GRID): what is centred in a 32-pixel square.

    `thing` 0 nothing, then SHAPES, then CHARACTERS; `colour` -1 nothing, else the
    index of its colour; `place` (GRID, GRID, 3) x, y and half size over SIZE;
    `board` 0 no sign behind this square, else 1 + the index of its colour; `rank`
    0 no character, else its place in the word from 1.
    """

    thing: np.ndarray
    colour: np.ndarray
    place: np.ndarray
    board: np.ndarray
    rank: np.ndarray


LABELS = ("thing", "colour", "place", "board", "rank")
LONGEST = 6  # characters on a sign
NUM_THINGS = 1 + len(SHAPES) + len(CHARACTERS)


def labels(scene: Scene) -> Labels:
    """The dense targets of a scene."""
    thing = np.zeros((GRID, GRID), np.int64)
    colour = np.full((GRID, GRID), -1, np.int64)
    place = np.zeros((GRID, GRID, 3), np.float32)
    board, rank = np.zeros((2, GRID, GRID), np.int64)
    unit = SIZE / GRID

    def put(index, name: str, x: float, y: float, half: float, nth: int = 0) -> None:
        row, column = (int(min(max(v / unit, 0), GRID - 1)) for v in (y, x))
        thing[row, column], colour[row, column] = index, COLOUR_NAMES.index(name)
        place[row, column] = x / SIZE, y / SIZE, half / SIZE
        rank[row, column] = nth

    for shape in scene.shapes:
        put(1 + SHAPES.index(shape.kind), shape.colour, shape.x, shape.y, shape.radius)
    middle = (np.arange(GRID) + 0.5) * unit
    for sign in scene.signs:
        for i, (x, y) in enumerate(sign.centres()):
            index = 1 + len(SHAPES) + CHARACTERS.index(sign.text[i])
            put(index, sign.ink, x, y, sign.font_size / 2, i + 1)
        turn = np.deg2rad(sign.angle)
        dx, dy = middle[None, :] - sign.x, middle[:, None] - sign.y
        along = dx * np.cos(turn) - dy * np.sin(turn)
        across = dx * np.sin(turn) + dy * np.cos(turn)
        inside = (abs(along) < sign.width / 2) & (abs(across) < sign.height / 2)
        board[inside] = 1 + COLOUR_NAMES.index(sign.board)
    return Labels(thing, colour, place, board, rank)
