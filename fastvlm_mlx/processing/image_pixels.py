"""Makes RGB images of 8 bits, upright and opaque, from images of any of Pillow's modes.

The work is done a strip at a time: beside the source and the result there is never a
third whole image in memory.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image

from fastvlm_mlx.processing import tiff_kind
from fastvlm_mlx.processing.tiff_kind import Samples

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # rows become columns
_FROM_THE_END = (3, 4, 6, 7)  # the first rows become the last
_STRIP_PIXELS = 1 << 18

# A part of an image as RGB.
_Convert = Callable[[Image.Image], Image.Image]


def to_rgb(image: Image.Image) -> Image.Image:
    """`image`, which is loaded, as RGB: upright, with alpha flattened onto white.

    It is `image` itself if nothing is to be done.
    """
    turn = orientation(image)
    if image.mode == "RGB" and not image.has_transparency_data and turn == 1:
        return image
    convert = _converter(image)
    width, height = image.size
    result = Image.new("RGB", (height, width) if turn in _SIDEWAYS else (width, height))
    step = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        strip = convert(image.crop((0, top, width, bottom)))
        if turn != 1:
            strip = strip.transpose(_UPRIGHT[turn])
        start = height - bottom if turn in _FROM_THE_END else top
        result.paste(strip, (start, 0) if turn in _SIDEWAYS else (0, start))
    return result


def orientation(image: Image.Image) -> int:
    """How the camera was held, 1 to 8 as in EXIF."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    # Camera metadata is often damaged; the pixels are what was asked for.
    except Exception:
        return 1
    return value if value in _UPRIGHT else 1


def _converter(image: Image.Image) -> _Convert:
    samples = tiff_kind.samples(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _grey(image, samples)
    if samples.signed:  # of 8 bits, in the mode "L"
        return _grey(image, samples)
    return _colour


def _colour(strip: Image.Image) -> Image.Image:
    if not strip.has_transparency_data:
        return strip.convert("RGB")
    if strip.mode in ("La", "PA"):
        strip = strip.convert("LA" if strip.mode == "La" else "RGBA")
    strip = strip.convert("RGBA")
    flat = Image.new("RGB", strip.size, "white")
    flat.paste(strip, (0, 0), strip)
    return flat


def _grey(image: Image.Image, samples: Samples) -> _Convert:
    """Scales grey values of 16 or 32 bits, or floats, to 0..255."""
    low, high = _range(image, samples)
    transparent = image.info.get("transparency")
    span = max(high - low, 1e-30)

    def scaled(values: np.ndarray) -> np.ndarray:
        grey = np.clip(np.rint((values - low) * 255 / span), 0, 255).astype(np.uint8)
        if samples.inverted:
            grey = 255 - grey
        if isinstance(transparent, int):
            grey[values == transparent] = 255  # onto white
        return grey

    if image.mode.startswith("I;16"):
        # Each value once: three times as fast.
        table = scaled(np.arange(1 << 16, dtype=np.float64))
        return lambda strip: Image.fromarray(table[np.asarray(strip)]).convert("RGB")
    return lambda strip: Image.fromarray(scaled(_values(strip, samples))).convert("RGB")


def _values(strip: Image.Image, samples: Samples) -> np.ndarray:
    values = np.asarray(strip)
    if samples.signed and samples.bits == 8:
        values = values.view(np.int8)
    elif samples.bits == 32 and not samples.signed and values.dtype == np.int32:
        values = values.view(np.uint32)
    return np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)


def _range(image: Image.Image, samples: Samples) -> tuple[float, float]:
    """The values that become black and white.

    Values within 0..1 (floats), 0..255 or 0..65535 keep that scale; larger ones are
    scaled by the largest, negative ones shifted by the smallest. The integers of a
    file that use most of their type's range keep that scale. NaN counts as zero.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 2.0 ** (samples.bits or 16) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 0.0, 65535.0  # both say so
    width, height = image.size
    step = max(1, _STRIP_PIXELS // width)
    lows, highs = [], []
    for top in range(0, height, step):
        values = _values(image.crop((0, top, width, min(top + step, height))), samples)
        lows.append(float(values.min()))
        highs.append(float(values.max()))
    low, high = min(lows), max(highs)
    scales = [1.0, 255.0, 65535.0] if image.mode == "F" else [255.0, 65535.0]
    if image.mode != "F" and samples.bits:
        half = 2.0 ** (samples.bits - 1)
        if samples.signed and low < -half / 2:
            return -half, half - 1
        full = half - 1 if samples.signed else 2 * half - 1
        scales = [each for each in scales if each < full]
        if samples.bits < 32 or high > full / 2:
            scales.append(full)
    if low < 0:
        return low, high
    return 0.0, next((each for each in scales if high <= each), high)
