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
_TURNS: dict[tuple[int, ...], Image.Transpose] = {
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def turn_of(decoded: "VideoFrame") -> Image.Transpose | None:
    """How a frame is to be turned, by its display matrix; a little is not at all.

    Ask it of few frames: PyAV leaves each in a cycle, to the garbage collector.
    """
    try:
        data = decoded.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know what else is with the frame
        data = None
    if data is None:
        return None
    # Nine numbers of 32 bits, row by row.
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])  # pyright: ignore
    largest = max(map(abs, (a, b, c, d))) or 1
    return _TURNS.get(tuple(round(part / largest) for part in (a, b, c, d)))


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
        turn: Image.Transpose | None = None,
    ):
        self.time = time
        self._decoded = decoded
        self._reformatter = reformatter
        self._aspect, self._turn = pixel_aspect, turn

    def at(self, time: float) -> "Frame":
        """The same frame with another time."""
        return Frame(self._decoded, time, self._reformatter, self._aspect, self._turn)

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
        # Not `to_image`, which leaves cycles of many megabytes to the collector.
        image = Image.fromarray(self._decoded.to_ndarray(format="rgb24"))
        if self._aspect != 1:
            width = max(1, round(image.width * self._aspect))
            image = image.resize((width, image.height), Image.Resampling.BICUBIC)
        return image if self._turn is None else image.transpose(self._turn)
