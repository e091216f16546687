"""Two small charts, drawn with Pillow so that they need nothing else: stacked bars
and lines. Values are positive; sizes are pixels of the saved image."""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.output_check import resolve_output

WIDTH, HEIGHT, SCALE = 900, 480, 2  # drawn large, then shrunk: smooth edges
LEFT, RIGHT, TOP, BOTTOM = 80, 30, 56, 64
INK, GREY, PAPER = "#222222", "#dddddd", "#ffffff"
# In the file's own text, so that a chart is known from somebody's photograph.
DRAWN_BY = "fastvlm-mlx"
# Okabe and Ito's palette, distinct for the colour-blind too.
MARKED = 40  # points of a line up to which each has a mark
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#d55e00"),
    *("#cc79a7", "#56b4e9", "#8c6d31", "#555555"),
)


class Chart:
    """A frame with a title, a value axis and a legend; subclasses draw into it."""

    def __init__(self, title: str, unit: str, top: float, legend: Sequence[str]):
        self.image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.step, self.top = ticks(top)
        self.text(LEFT, 12, title, size=17)
        for value in range(round(self.top / self.step) + 1):
            y = self.y(value * self.step)
            self.line([(LEFT, y), (WIDTH - RIGHT, y)], GREY, 1)
            self.text(LEFT - 8, y, f"{value * self.step:g}", anchor="rm")
        self.text(LEFT - 8, TOP - 16, unit, anchor="rm")
        x = LEFT
        for index, label in enumerate(legend):
            colour = COLOURS[index % len(COLOURS)]
            self.box(x, HEIGHT - 24, x + 12, HEIGHT - 12, colour)
            x += self.text(x + 17, HEIGHT - 18, label, anchor="lm") + 34

    def y(self, value: float) -> float:
        """Where a value stands."""
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / self.top

    def text(
        self, x: float, y: float, words: str, *, anchor: str = "la", size: int = 13
    ) -> float:
        """Writes, and gives the width of what was written."""
        font = ImageFont.load_default(size * SCALE)
        place = (x * SCALE, y * SCALE)
        self.pen.text(place, words, fill=INK, font=font, anchor=anchor)
        return self.pen.textlength(words, font=font) / SCALE

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        self.pen.rectangle([v * SCALE for v in (x0, y0, x1, y1)], fill=colour)

    def line(self, points: Sequence[tuple], colour: str, width: float) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.pen.line(scaled, fill=colour, width=round(width * SCALE), joint="curve")

    def save(self, path: Path) -> None:
        """Writes the image; the suffix of `path` names the format."""
        image = self.image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        with staged_file(path, overwrite=True) as partial:
            if path.suffix.lower() == ".png":
                text = PngImagePlugin.PngInfo()
                text.add_text("Software", DRAWN_BY)
                image.save(partial, "PNG", pnginfo=text)
            else:
                image.save(partial, "JPEG", comment=DRAWN_BY)


def is_chart(path: Path) -> bool:
    """Whether `path` is an image that `Chart.save` wrote."""
    try:
        with Image.open(path) as image:
            told = image.info.get("Software", image.info.get("comment"))
    except (OSError, ValueError, SyntaxError):
        return False
    return told in (DRAWN_BY, DRAWN_BY.encode())


def check(path: Path) -> None:
    """Refuses a `path` that `save` could not or must not write, before hours of work.

    Raises:
        OptionError: no image file, in no folder, or a file that is no chart of ours.
    """
    if path.suffix.lower() not in (".png", ".jpg"):
        raise OptionError(f"--plot {path}: name a .png or .jpg file")
    place = resolve_output(path)
    if not place.parent.is_dir():
        raise OptionError(
            f"--plot {path}: cannot be written (no such folder); name another output"
        )
    if place.is_dir() or (place.exists() and not is_chart(place)):
        raise OptionError(
            f"--plot {path}: exists and is no chart of this program; name another"
            " output"
        )


def ticks(top: float) -> tuple[float, float]:
    """A round step, and the multiple of it that reaches `top` in at most 6 steps."""
    rough = max(top, 1e-9) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    return step, step * math.ceil(top / step * 0.999) or step


def number(value: float) -> str:
    """Three digits, more only where a whole number has them: 0.153, 28.4, 1130."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def bars(
    path: Path, title: str, unit: str, columns: dict[str, dict[str, float]]
) -> None:
    """Stacked bars: a column for each key, a layer for each of its values.

    A layer's name has the same colour everywhere; the sum stands on each column.
    """
    layers = list(dict.fromkeys(name for column in columns.values() for name in column))
    top = max(sum(column.values()) for column in columns.values())
    chart = Chart(title, unit, top, layers)
    room = (WIDTH - LEFT - RIGHT) / len(columns)
    for place, (label, column) in enumerate(columns.items()):
        x, height = LEFT + room * (place + 0.5), 0.0
        half = min(room * 0.3, 50)
        for name, value in column.items():
            colour = COLOURS[layers.index(name) % len(COLOURS)]
            y = chart.y(height)
            chart.box(x - half, chart.y(height + value), x + half, y, colour)
            height += value
        chart.text(x, chart.y(height) - 4, number(height), anchor="md")
        for row, words in enumerate(label.split("\n")):
            chart.text(x, HEIGHT - BOTTOM + 5 + 14 * row, words, anchor="ma", size=11)
    chart.save(path)


def lines(
    path: Path, title: str, unit: str, series: dict[str, dict[float, float]]
) -> None:
    """One line per series, over a horizontal axis that is proportional to x."""
    xs = sorted({x for points in series.values() for x in points})
    top = max(max(points.values()) for points in series.values())
    chart = Chart(title, unit, top, list(series))
    span = (xs[-1] - xs[0]) or 1

    def place(x: float) -> float:
        return LEFT + 24 + (WIDTH - LEFT - RIGHT - 48) * (x - xs[0]) / span

    free = 0.0
    for x in xs:
        if place(x) > free:  # a label that would touch the last one is left out
            chart.text(place(x), HEIGHT - BOTTOM + 5, f"{x:g}", anchor="ma")
            free = place(x) + 36
    for index, points in enumerate(series.values()):
        colour = COLOURS[index % len(COLOURS)]
        path_ = [(place(x), chart.y(y)) for x, y in sorted(points.items())]
        chart.line(path_, colour, 2.5)
        for x, y in path_ if len(path_) <= MARKED else ():
            chart.box(x - 4, y - 4, x + 4, y + 4, colour)
    chart.save(path)
