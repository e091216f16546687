"""Image preprocessing: fit to a square, cut into tiles.

The checkpoints were trained on images padded to a black square and resized with
Pillow's bicubic filter; `resize_to_square(..., "pad")` gives the same bytes.
"""

import ast
import hashlib
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.processing.image_options import ImageOptions, check_fit, check_tiles

_BICUBIC = Image.Resampling.BICUBIC
_STRIP_PIXELS = 1 << 22  # 16 MB: what one strip of `_pad` may take


def preprocess(
    image: Image.Image,
    options: ImageOptions,
    pinpoints: Sequence[Sequence[int]] = (),
) -> np.ndarray:
    """The encoder's input for one image: the overview, then its tiles if any.

    `image` is upright RGB, as `open_image` returns it. `pinpoints` are the model's
    `image_grid_pinpoints`, from which the tiles follow where `options` has none.

    Shapes:
        returns (1 + tiles, resolution, resolution, 3), uint8: a quarter of what floats
        take to hash and to bring to a GPU, which scales them
    Raises:
        OptionError: `pinpoints` is malformed.
    """
    size, overview = options.resolution, options.fit
    rows, columns = options.tiles or (0, 0)
    if options.tiles is None and pinpoints:
        width, height = select_grid(*image.size, pinpoints)
        rows, columns = height // size, width // size
        # LLaVA's anyres stretches the overview to a square whatever the fit.
        overview = "stretch"
        if rows * columns <= 1:
            rows = columns = 0
    if rows:
        squares = tile_image(image, size, rows, columns, options.fit, overview)
    else:
        squares = [resize_to_square(image, size, options.fit)]
    return np.stack(squares)


def unit_floats(pixels: np.ndarray) -> np.ndarray:
    """Pixels, uint8 or floats in 0..1, as float32 in 0..1; any shape."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    return pixels.astype(np.float32, copy=False)


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
    """The best `(width, height)` of `pinpoints` for an image, in pixels.

    `pinpoints` is a config's `image_grid_pinpoints`: pairs of pixels, or their text.
    As LLaVA's select_best_resolution: the pair that keeps most pixels of the image,
    then the one with the least padding. 1600 x 800 among (512, 512), (1024, 512) and
    (512, 1024) gives (1024, 512): one row of two tiles at a size of 512.

    Raises:
        OptionError: `pinpoints` is empty or malformed.
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
            f"image_grid_pinpoints {pinpoints!r:.200}: give pairs of pixels "
            "such as [[512, 512], [1024, 512]]"
        )
    return best


def content_hash(image: Image.Image | np.ndarray) -> str:
    """A hash of the shape, the dtype and the values: 32 hexadecimal digits.

    The hash of `preprocess`'s output also depends on the fit and the resolution, and
    takes less time than that of a large image.
    """
    pixels = np.ascontiguousarray(image)
    digest = hashlib.blake2b(
        f"{pixels.dtype.str}{pixels.shape}".encode(), digest_size=16
    )
    digest.update(pixels.data)
    return digest.hexdigest()


def _pad(image: Image.Image, size: int) -> Image.Image:
    """LLaVA's expand2square and a bicubic resize, without making the square.

    Pillow resizes rows first, rounds to bytes, then resizes columns. So rows are
    padded and resized a strip at a time, and the black rows above and below are
    skipped: the same bytes in less time, without a second copy of a huge image.
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

    Only the kept part is computed, so the cost does not grow with the image's length.
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
