"""A frame of a video: its time, a thumbnail to compare, and the upright image."""

import struct
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastvlm_mlx.processing.video.change import GRID, from_samples

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

# How an image is turned by the signs of a display matrix, (a, b, c, d): a point (x, y)
# of the frame is shown at (a x + c y, b x + d y).
_TURNS = {
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


class Frame:
    """One frame; nothing is converted until it is asked for.

    `time` is in seconds from the beginning of the video.
    """

    def __init__(
        self,
        decoded: "VideoFrame",
        time: float,
        reformatter: "VideoReformatter",
        pixel_aspect: Fraction = Fraction(1),
    ):
        self.time = time
        self._decoded = decoded
        self._reformatter = reformatter
        self._aspect = pixel_aspect

    def at(self, time: float) -> "Frame":
        """The same frame with another time."""
        return Frame(self._decoded, time, self._reformatter, self._aspect)

    @cached_property
    def thumbnail(self) -> np.ndarray:
        """The mean colours of its cells, as stored, not turned: see `change`."""
        # By the nearest pixel: only the samples are converted, whatever the size.
        small = self._reformatter.reformat(
            self._decoded, GRID, GRID, "rgb24", interpolation="POINT", threads=1
        )
        plane = np.frombuffer(small.planes[0], np.uint8)  # pyright: ignore
        lines = plane.reshape(GRID, small.planes[0].line_size)
        return from_samples(lines[:, : GRID * 3])

    @cached_property
    def image(self) -> Image.Image:
        """The frame as RGB, 8 bits a channel, turned upright, with square pixels."""
        image = self._decoded.to_image()
        if self._aspect != 1:
            width = max(1, round(image.width * self._aspect))
            image = image.resize((width, image.height), Image.Resampling.BICUBIC)
        turn = _TURNS.get(self._matrix())
        return image if turn is None else image.transpose(turn)

    def _matrix(self) -> tuple[int, ...]:
        try:
            data = self._decoded.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV does not know what else is with the frame
            data = None
        if data is None:
            return ()
        # Nine numbers of 32 bits, row by row; turned by a little is not turned.
        a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])  # pyright: ignore
        largest = max(map(abs, (a, b, c, d))) or 1
        return tuple(round(part / largest) for part in (a, b, c, d))
