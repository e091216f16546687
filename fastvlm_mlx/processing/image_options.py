"""ImageOptions: how an image becomes pixels, and the checks of these options."""

import re
from dataclasses import dataclass
from typing import Protocol

from fastvlm_mlx.errors import OptionError

FITS = ("pad", "crop", "stretch")
MAX_RESOLUTION = 4096
MAX_TILES = 36
MAX_PAGE_SIDE = 8192


class ImageDefaults(Protocol):
    """The part of `ModelConfig` that `ImageOptions.of` reads."""

    @property
    def fit(self) -> str: ...

    @property
    def image_size(self) -> int: ...


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes pixels.

    Args:
        fit: "pad", "crop" or "stretch"; see `resize_to_square`.
        resolution: pixels a side, a multiple of 64.
        tiles: (rows, columns); None follows the model's `image_grid_pinpoints`.
    Raises:
        OptionError: a value cannot be honoured.
    """

    fit: str
    resolution: int
    tiles: tuple[int, int] | None = None

    def __post_init__(self):
        check_fit(self.fit)
        check_resolution(self.resolution)
        if self.tiles is not None:
            object.__setattr__(self, "tiles", check_tiles(*self.tiles))

    @property
    def page_side(self) -> int:
        """Pixels of the longer side of a PDF's page, which has none of its own.

        Twice what the encoder sees of it: the resize then averages, as of a photo.
        """
        return min(2 * self.resolution * max(self.tiles or (1, 1)), MAX_PAGE_SIDE)

    @classmethod
    def of(
        cls,
        config: ImageDefaults,
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
    ) -> "ImageOptions":
        """The options of a model, with `fit` and `resolution` its own where None."""
        return cls(
            config.fit if fit is None else fit,
            config.image_size if resolution is None else resolution,
            tiles,
        )


def check_resolution(resolution: int) -> int:
    """Returns `resolution`.

    Raises:
        OptionError: it is not a multiple of 64 up to MAX_RESOLUTION.
    """
    if isinstance(resolution, bool) or not isinstance(resolution, int):
        raise OptionError(
            f"resolution {resolution!r:.200}: give a whole number of pixels"
        )
    if resolution % 64 or not 64 <= resolution <= MAX_RESOLUTION:
        near = min(max(64, round(resolution / 64) * 64), MAX_RESOLUTION)
        raise OptionError(
            f"resolution {resolution}: must be a multiple of 64 from 64 to "
            f"{MAX_RESOLUTION}; try {near}"
        )
    return resolution


def check_fit(fit: str) -> str:
    """Returns `fit`.

    Raises:
        OptionError: it is not one of FITS.
    """
    if fit not in FITS:
        raise OptionError(f"fit {fit!r:.200}: choose one of {', '.join(FITS)}")
    return fit


def check_tiles(rows: int, columns: int) -> tuple[int, int]:
    """Returns `(rows, columns)`.

    Raises:
        OptionError: not 1 to MAX_TILES tiles in all.
    """
    if min(rows, columns) < 1 or rows * columns > MAX_TILES:
        raise OptionError(
            f"tiles {rows}x{columns}: must be 1 to {MAX_TILES} tiles, such as 2x3"
        )
    return rows, columns


def parse_tiles(text: str) -> tuple[int, int]:
    """`"2x3"`, rows by columns, as `(2, 3)`.

    Raises:
        OptionError: the text is of another form, or of too many tiles.
    """
    match = re.fullmatch(r"\s*(\d{1,4})\s*[xX\u00d7]\s*(\d{1,4})\s*", text)
    if match is None:
        raise OptionError(f"tiles {text!r:.200}: give rows x columns, such as 2x3")
    return check_tiles(int(match[1]), int(match[2]))
