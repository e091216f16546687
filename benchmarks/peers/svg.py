"""A small writer of SVG: rectangles and text, for horizontal bars.

SVG because it is sharp at any size and a few kB of text in the repository. Two
palettes, since an image cannot know which theme of GitHub it is shown in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Palette:
    """Colours of one theme; `bars` by a row's place."""

    paper: str
    ink: str
    muted: str
    bars: tuple[str, ...]


LIGHT = Palette("#ffffff", "#1f2328", "#59636e", ("#0072b2", "#b0b7bf", "#c9ced4"))
DARK = Palette("#0d1117", "#f0f6fc", "#9198a1", ("#4cb5f5", "#656c76", "#4a5159"))


@dataclass(frozen=True)
class Row:
    """One bar: its name, what is said below the name, its value, and that as text."""

    name: str
    kind: str
    value: float
    shown: str


class Drawing:
    """An SVG image of `width` by `height` pixels."""

    def __init__(self, width: int, height: int, palette: Palette, title: str):
        self.palette = palette
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}"'
            f' height="{height}" viewBox="0 0 {width} {height}" font-family="{FONT}">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" fill="{palette.paper}"/>',
        ]

    def text(
        self, x: float, y: float, words: str, *, size: int, muted: bool = False
    ) -> None:
        """Writes from `x` to the right, on the baseline `y`."""
        colour = self.palette.muted if muted else self.palette.ink
        weight = ' font-weight="600"' if size > 13 else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{weight}>'
            f"{escape(words)}</text>"
        )

    def box(self, x: float, y: float, width: float, height: float, fill: str) -> None:
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}"'
            f' rx="2" fill="{fill}"/>'
        )

    def bars(
        self, x: float, y: float, title: str, rows: Sequence[Row], room: float
    ) -> None:
        """A title and one bar for each row, in a field `room` pixels wide.

        A bar that is far longer than all others is cut, with a gap near its end.
        """
        self.text(x, y, title, size=15)
        values = sorted(row.value for row in rows)
        top = values[-1]
        if len(values) > 1 and top > 2.5 * values[-2]:
            top = 1.5 * values[-2]
        left, full = x + 150, room - 150 - 70
        for place, row in enumerate(rows):
            line = y + 18 + 36 * place
            colour = self.palette.bars[min(place, len(self.palette.bars) - 1)]
            self.text(x, line + 11, row.name, size=13)
            self.text(x, line + 25, row.kind, size=11, muted=True)
            width = max(full * min(row.value / top, 1.0), 1.0)
            self.box(left, line + 2, width, 20, colour)
            if row.value > top:
                self.box(left + width - 22, line, 5, 24, self.palette.paper)
            self.text(left + width + 6, line + 17, row.shown, size=13)

    def __str__(self) -> str:
        return "\n".join([*self._parts, "</svg>", ""])
