"""From images to the encoder's pixels: fit, tile, scale to 0..1.

The checkpoints were trained on images padded to a black square and resized with
Pillow's bicubic filter; `resize_to_square(..., "pad")` gives the same bytes. Nothing
here knows the model: an image becomes (resolution / 64)^2 tokens elsewhere.
"""

import ast
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.processing.image_file import Source, open_image

if TYPE_CHECKING:
    from fastvlm_mlx.model.config import ModelConfig

FITS = ("pad", "crop", "stretch")
MAX_RESOLUTION = 4096
MAX_TILES = 36

_BICUBIC = Image.Resampling.BICUBIC
_STRIP_PIXELS = 1 << 22  # 16 MB: what one strip of `_pad` may take


def to_pixels(
    images: Sequence[Source],
    *,
    size: int,
    fit: str = "pad",
    tiles: tuple[int, int] | None = None,
) -> np.ndarray:
    """Images as the encoder takes them: float32 `(N, size, size, 3)` in 0..1.

    `images` is anything `open_image` opens, `size` the resolution in pixels. With
    `tiles=(rows, columns)` every image gives `1 + rows * columns` of the N, in the
    order of `tile_image`; without, one.

    Raises ImageError for an image, OptionError for an option.
    """
    check_resolution(size)
    pixels = []
    for source in images:
        image = open_image(source)
        if tiles is None:
            pixels.append(resize_to_square(image, size, fit))
        else:
            pixels.extend(tile_image(image, size, *tiles, fit=fit))
    if not pixels:
        return np.zeros((0, size, size, 3), np.float32)
    return np.stack(pixels).astype(np.float32) / np.float32(255)


def resize_to_square(image: Image.Image, size: int, fit: str = "pad") -> np.ndarray:
    """One RGB image as uint8 `(size, size, 3)`.

    - "pad": centred on a black square of its longer side, then resized.
    - "crop": the shorter side becomes `size`, the middle of the longer side is kept.
    - "stretch": both sides become `size`.
    """
    check_fit(fit)
    if fit == "pad":
        image = _pad(image, size)
    elif fit == "crop":
        image = _crop(image, size)
    else:
        image = image.resize((size, size), _BICUBIC)
    return np.asarray(image)


def tile_image(
    image: Image.Image,
    size: int,
    rows: int,
    columns: int,
    fit: str = "pad",
    overview: str | None = None,
) -> list[np.ndarray]:
    """The overview, then `rows * columns` tiles row by row, as `resize_to_square`.

    As LLaVA's anyres: the image is resized to the largest that `columns * size` by
    `rows * size` holds, padded with black to that, and cut. `fit="stretch"` fills
    it without padding, "crop" by cutting the overhang. `overview` is the fit of the
    first image and `fit` unless given (LLaVA's own is "stretch").
    """
    check_fit(fit)
    check_tiles(rows, columns)
    width, height = columns * size, rows * size
    if fit == "stretch":
        canvas = image.resize((width, height), _BICUBIC)
    elif fit == "crop":
        scale = max(width / image.width, height / image.height)
        w, h = width / scale, height / scale
        left, top = (image.width - w) / 2, (image.height - h) / 2
        # Rounding must not push the box over the edge.
        box = (
            max(left, 0),
            max(top, 0),
            min(left + w, image.width),
            min(top + h, image.height),
        )
        canvas = image.resize((width, height), _BICUBIC, box)
    else:
        canvas = _letterbox(image, width, height)
    pixels = np.asarray(canvas).reshape(rows, size, columns, size, 3)
    # [rows, size, columns, size, 3] -> [tiles, size, size, 3]
    cut = pixels.transpose(0, 2, 1, 3, 4).reshape(-1, size, size, 3)
    return [resize_to_square(image, size, overview or fit), *cut]


def select_grid(
    width: int, height: int, pinpoints: str | Sequence[Sequence[int]]
) -> tuple[int, int]:
    """The `(width, height)` of `pinpoints` that serves an image best, in pixels.

    `pinpoints` is a config's `image_grid_pinpoints`: pairs of pixels, or their text.
    As LLaVA's select_best_resolution: the one that keeps most of the image's pixels,
    then the one with the least padding. 1600 x 800 among (512, 512), (1024, 512) and
    (512, 1024) gives (1024, 512): one row of two tiles at a size of 512.

    Raises OptionError if `pinpoints` is empty or malformed.
    """
    best, best_rank = None, (0, 0)
    try:
        pairs = ast.literal_eval(pinpoints) if isinstance(pinpoints, str) else pinpoints
        for candidate_width, candidate_height in pairs:
            scale = min(candidate_width / width, candidate_height / height)
            kept = min(int(width * scale) * int(height * scale), width * height)
            rank = (kept, kept - candidate_width * candidate_height)
            if rank > best_rank:
                best, best_rank = (int(candidate_width), int(candidate_height)), rank
    except (TypeError, ValueError, SyntaxError, ZeroDivisionError):
        best = None
    if best is None:
        raise OptionError(
            f"image_grid_pinpoints {pinpoints!r}: give pairs of pixels "
            "such as [[512, 512], [1024, 512]]"
        )
    return best


def check_resolution(resolution: int) -> int:
    """Return `resolution`; OptionError unless a multiple of 64 up to MAX_RESOLUTION."""
    if isinstance(resolution, bool) or not isinstance(resolution, int):
        raise OptionError(f"resolution {resolution!r}: give a whole number of pixels")
    if resolution % 64 or not 64 <= resolution <= MAX_RESOLUTION:
        near = min(max(64, round(resolution / 64) * 64), MAX_RESOLUTION)
        raise OptionError(
            f"resolution {resolution}: must be a multiple of 64 from 64 to "
            f"{MAX_RESOLUTION}; try {near}"
        )
    return resolution


def check_fit(fit: str) -> str:
    """Return `fit`; OptionError unless it is one of FITS."""
    if fit not in FITS:
        raise OptionError(f"fit {fit!r}: choose one of {', '.join(FITS)}")
    return fit


def check_tiles(rows: int, columns: int) -> tuple[int, int]:
    """Return `(rows, columns)`; OptionError unless 1 to MAX_TILES tiles in all."""
    if min(rows, columns) < 1 or rows * columns > MAX_TILES:
        raise OptionError(
            f"tiles {rows}x{columns}: must be 1 to {MAX_TILES} tiles, such as 2x3"
        )
    return rows, columns


def parse_tiles(text: str) -> tuple[int, int]:
    """`"2x3"`, rows by columns, as `(2, 3)`; OptionError otherwise."""
    match = re.fullmatch(r"\s*(\d{1,4})\s*[xX\u00d7]\s*(\d{1,4})\s*", text)
    if match is None:
        raise OptionError(f"tiles {text!r}: give rows x columns, such as 2x3")
    return check_tiles(int(match[1]), int(match[2]))


def content_hash(image: Image.Image | np.ndarray) -> str:
    """A name for these pixels, equal for equal pixels wherever they came from.

    32 hexadecimal digits of the shape, the dtype and the values. The output of
    `preprocess` is the better thing to name: it is smaller than most images and
    holds the fit and the resolution too.
    """
    pixels = np.ascontiguousarray(image)
    digest = hashlib.blake2b(
        f"{pixels.dtype.str}{pixels.shape}".encode(), digest_size=16
    )
    digest.update(pixels.data)
    return digest.hexdigest()


def _pad(image: Image.Image, size: int) -> Image.Image:
    """LLaVA's expand2square and a bicubic resize, without ever making the square.

    Pillow resizes rows first, rounds to bytes, then resizes columns. So rows may be
    padded and resized a strip at a time, and the black rows above and below not at
    all: the same bytes in less time, and no second copy of a huge image.
    """
    width, height = image.size
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    rows = Image.new("RGB", (size, side))
    step = max(1, _STRIP_PIXELS // side)
    for y in range(0, height, step):
        strip = image.crop((0, y, width, min(y + step, height)))
        if left:
            padded = Image.new("RGB", (side, strip.height))
            padded.paste(strip, (left, 0))
            strip = padded
        rows.paste(strip.resize((size, strip.height), _BICUBIC), (0, top + y))
    return rows.resize((size, size), _BICUBIC)


def _crop(image: Image.Image, size: int) -> Image.Image:
    """transformers' CLIP processor: shortest edge to `size`, centre crop.

    Only the part that is kept is computed, so a very long image costs no more.
    """
    width, height = image.size
    short = min(width, height)
    new_width, new_height = size * width // short, size * height // short
    x, y = (new_width - size) // 2, (new_height - size) // 2
    scale_x, scale_y = width / new_width, height / new_height
    box = (
        x * scale_x,
        y * scale_y,
        min((x + size) * scale_x, width),
        min((y + size) * scale_y, height),
    )
    return image.resize((size, size), _BICUBIC, box)


def _letterbox(image: Image.Image, width: int, height: int) -> Image.Image:
    """LLaVA's resize_and_pad_image: whole image, black bars, `width` x `height`."""
    scale_x, scale_y = width / image.width, height / image.height
    if scale_x < scale_y:
        new = width, min(math.ceil(image.height * scale_x), height)
    else:
        new = min(math.ceil(image.width * scale_y), width), height
    canvas = Image.new("RGB", (width, height))
    resized = image.resize(new, _BICUBIC)
    canvas.paste(resized, ((width - new[0]) // 2, (height - new[1]) // 2))
    return canvas


@dataclass(frozen=True)
class ImageOptions:
    """How images are shown to a model: `fit`, `resolution` in pixels, `tiles` as
    `(rows, columns)`. None for `tiles` follows the model's `image_grid_pinpoints`.

    Raises OptionError for a value that cannot be honoured.
    """

    fit: str
    resolution: int
    tiles: tuple[int, int] | None = None

    def __post_init__(self):
        check_fit(self.fit)
        check_resolution(self.resolution)
        if self.tiles is not None:
            object.__setattr__(self, "tiles", check_tiles(*self.tiles))

    @classmethod
    def of(
        cls,
        config: "ModelConfig",
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
    ) -> "ImageOptions":
        """The given options; where one is None, the model's own."""
        return cls(
            fit=config.fit if fit is None else fit,
            resolution=config.image_size if resolution is None else resolution,
            tiles=tiles,
        )


def preprocess(
    image: Image.Image, view: ImageOptions, pinpoints: Sequence[Sequence[int]] = ()
) -> np.ndarray:
    """What the model sees of an image: the whole, then its tiles if there are any.

    Shapes:
        returns (1 + tiles, resolution, resolution, 3), float32 in 0..1
    """
    if view.tiles is None and pinpoints:
        width, height = select_grid(*image.size, pinpoints)
        columns, rows = width // view.resolution, height // view.resolution
        if rows * columns > 1:
            # LLaVA's anyres squeezes the overview into a square whatever the fit.
            tiles = tile_image(
                image, view.resolution, rows, columns, view.fit, overview="stretch"
            )
            return np.stack(tiles).astype(np.float32) / np.float32(255)
    return to_pixels([image], size=view.resolution, fit=view.fit, tiles=view.tiles)
