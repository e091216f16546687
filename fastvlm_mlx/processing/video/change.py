"""Tells whether an image shows something new, by small thumbnails in colour.

A thumbnail is the mean colour of 32 x 32 cells, each of 4 x 4 samples of the image, so
most noise is gone, and its size in pixels does not matter. Two images differ by the
share of cells whose colour differs clearly: by more than noise would explain.
"""

from dataclasses import dataclass, field

import numpy as np
from PIL import Image

CELLS = 32  # on a side of a thumbnail
SAMPLES = 4  # on a side of a cell
GRID = CELLS * SAMPLES

# A cell differs clearly by this many of 255 levels, or by more where there is noise.
_LEAST, _MOST = 14.0, 40.0
_SIGMAS = 5.0  # of what noise alone gives

NEW = 0.01  # share of cells: the size of a face in a room


def thumbnail(image: Image.Image) -> np.ndarray:
    """The thumbnail of an image: (32, 32, 3), float32, 0 to 255."""
    # By the nearest pixel: to read all of a large image would take longer than the
    # model's work is worth.
    small = image.resize((GRID, GRID), Image.Resampling.NEAREST).convert("RGB")
    return from_samples(np.asarray(small))


def from_samples(samples: np.ndarray) -> np.ndarray:
    """The thumbnail of (128, 128, 3) samples in uint8."""
    # In two steps of whole numbers, which NumPy sums ten times faster than a mean.
    rows = samples.reshape(CELLS, SAMPLES, GRID * 3).sum(1, dtype=np.uint16)
    cells = rows.reshape(CELLS, CELLS, SAMPLES, 3).sum(2, dtype=np.uint16)
    return cells.astype(np.float32) / SAMPLES**2


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """The share of cells, 0 to 1, that differ clearly between two thumbnails."""
    by_cell = first - second
    # Noise differs from cell to cell, and what has changed mostly does not: so the
    # median step between neighbours is that of noise.
    steps = np.abs(by_cell[:, 1:, 1] - by_cell[:, :-1, 1])
    sigma = float(np.median(steps)) / (0.6745 * 2**0.5)
    limit = min(max(_LEAST, _SIGMAS * sigma), _MOST)
    return float(np.count_nonzero((np.abs(by_cell) > limit).any(-1))) / CELLS**2


def drift(first: np.ndarray, second: np.ndarray) -> float:
    """How far two thumbnails are apart on the whole: the mean of 8 x 8 cells.

    Noise of 10 levels a pixel gives 0.7 at most; a fade of five seconds more than 2
    in half a second.
    """
    coarse = (first - second).reshape(8, CELLS // 8, 8, CELLS // 8, 3).mean((1, 3))
    return float(np.abs(coarse).mean())


def is_black(cells: np.ndarray) -> bool:
    """Whether a thumbnail is that of a black image, as between two scenes."""
    return bool(cells.max() < 24)


@dataclass
class ChangeDetector:
    """Compares each image with the last one that was new.

    `threshold` is the share of cells that must differ. The first image is new.

        detector = ChangeDetector()
        for image in images:
            if detector.is_new(image):
                ...
    """

    threshold: float = NEW
    _last: np.ndarray | None = field(default=None, repr=False)

    def is_new(self, image: Image.Image | np.ndarray) -> bool:
        """Whether an image, or its thumbnail, shows something new; it is kept then."""
        cells = image if isinstance(image, np.ndarray) else thumbnail(image)
        if self._last is not None:
            if difference(cells, self._last) < self.threshold:
                return False
        self._last = cells
        return True

    def difference(self, image: Image.Image | np.ndarray) -> float:
        """The share of cells that differ from the last image that was new; 1 if none.

        Nothing is kept.
        """
        if self._last is None:
            return 1.0
        cells = image if isinstance(image, np.ndarray) else thumbnail(image)
        return difference(cells, self._last)
