"""A screen of Xvfb whose pixels a test writes; nothing else is drawn on it."""

import mmap
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WIDTH, HEIGHT = 320, 256
_COLOUR = 12  # bytes of an entry of the colour map


class Screen:
    """`display` is its name, for the variable DISPLAY."""

    def __init__(self, display: str, buffer: mmap.mmap):
        self.display, self._buffer = display, buffer
        # The header of an XWD file: its own size, and how many colours follow it.
        fields = struct.unpack(">25I", buffer[:100])
        self._start = fields[0] + fields[19] * _COLOUR
        self._stride = fields[12]

    def show(self, image: Image.Image) -> None:
        """Fills the screen with an image."""
        rgb = np.asarray(image.convert("RGB").resize((WIDTH, HEIGHT)))
        pixels = np.zeros((HEIGHT, self._stride // 4, 4), np.uint8)
        pixels[:, :WIDTH, :3] = rgb[..., ::-1]  # BGRX
        end = self._start + pixels.nbytes
        self._buffer[self._start : end] = pixels.tobytes()


@contextmanager
def x_screen() -> Iterator[Screen]:
    """Runs Xvfb; a test is skipped where there is none."""
    program = shutil.which("Xvfb")
    if program is None:
        pytest.skip("no Xvfb here")
    # Its own folder: the path of a memory-mapped screen has a limit.
    with tempfile.TemporaryDirectory(prefix="fastvlm-x") as place:
        reader, writer = os.pipe()
        command = [program, "-displayfd", str(writer), "-nolisten", "tcp", "-noreset"]
        command += ["-screen", "0", f"{WIDTH}x{HEIGHT}x24", "-fbdir", place]
        process = subprocess.Popen(
            command,
            pass_fds=[writer],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(writer)
        try:
            with os.fdopen(reader) as number:
                display = f":{number.readline().strip()}"
            assert display != ":", "Xvfb did not start"
            with Path(place, "Xvfb_screen0").open("r+b") as file:
                with mmap.mmap(file.fileno(), 0) as buffer:
                    yield Screen(display, buffer)
        finally:
            process.terminate()
            process.wait(10)
