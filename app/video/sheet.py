"""A contact sheet: the frames that were taken, small, each with its time."""

import os
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.app.video.times import clock
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.output_check import check_replaceable, resolve_output

WIDTH, GAP, LINE = 320, 8, 22  # pixels
MOST = 400  # frames; beyond them every second is left out, again and again
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
_PAPER, _INK = (24, 24, 24), (235, 235, 235)


class Sheet:
    """Collects frames and writes them as one image to `path`.

    Raises:
        UsageError: the name is not that of an image.
        OptionError: there is a file already, and `overwrite` is not set.
    """

    def __init__(self, path: str, *, overwrite: bool):
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in _FORMATS:
            raise UsageError(f"--sheet {path}: name a .jpg, .png or .webp file")
        check_replaceable(path, resolve_output(path), overwrite, folder=False)
        self._path, self._overwrite = path, overwrite
        self._format = _FORMATS[suffix]
        self._cells: list[tuple[float, Image.Image]] = []
        self._step = self._seen = 0

    def add(self, time: float, image: Image.Image) -> None:
        """Adds a frame; the image itself is not kept."""
        self._seen += 1
        if self._step and self._seen % 2**self._step:
            return
        small = image.copy()
        small.thumbnail((WIDTH, WIDTH))
        self._cells.append((time, small))
        if len(self._cells) > MOST:
            self._cells = self._cells[::2]
            self._step += 1

    def write(self) -> None:
        """Writes the sheet; nothing if there are no frames.

        Raises:
            OptionError: it cannot be written.
        """
        if not self._cells:
            return
        with staged_file(self._path, overwrite=self._overwrite) as partial:
            self.image().save(Path(partial), self._format, quality=90)

    def image(self) -> Image.Image:
        """The sheet: rows of at most five frames, in order of time."""
        columns = min(len(self._cells), max(1, min(5, round(len(self._cells) ** 0.5))))
        rows = -(-len(self._cells) // columns)
        width = max(cell.width for _, cell in self._cells)
        height = max(cell.height for _, cell in self._cells)
        step_x, step_y = width + GAP, height + LINE + GAP
        size = columns * step_x + GAP, rows * step_y + GAP
        sheet = Image.new("RGB", size, _PAPER)
        pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
        for at, (time, cell) in enumerate(self._cells):
            x, y = GAP + at % columns * step_x, GAP + at // columns * step_y
            sheet.paste(cell, (x, y))
            pen.text((x, y + height + 2), clock(time), _INK, font=font)
        return sheet
