"""Compresses the weights of exported programs: to few bits, or to palettes.

Only the weights of 1x1 convolutions are compressed: they hold 99 % of the weights, and
a reparameterized depthwise kernel has an outlier at its centre.
"""

import numpy as np

# Input channels that share a scale in `int8-block` and `int4-block`.
BLOCK = 32

KMEANS_ROUNDS = 25


def cast_weights(
    array: np.ndarray, dtype: np.dtype, name: str, warnings: list[str]
) -> np.ndarray:
    """`array` in `dtype`; adds a line to `warnings` if many weights do not fit it."""
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    overflowed = int(np.sum(~np.isfinite(cast)))
    vanished = int(np.sum((cast == 0) & (array != 0)))
    if overflowed:
        largest = float(np.max(np.abs(array)))
        warnings.append(
            f"{name}: {overflowed} of {array.size} weights overflow {dtype}"
            f" (largest {largest:.3g}); use float32"
        )
    # Some weights vanish in any layer; warn from one in a hundred.
    if vanished > array.size / 100:
        warnings.append(f"{name}: {vanished} of {array.size} weights vanish in {dtype}")
    return cast


def quantize(
    array: np.ndarray, block: int | None, bits: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric integers with a scale per output channel, or per `block` of its inputs.

    Shapes:
        array: (out, in, 1, 1)
        returns int8 of the same shape, in -2^(bits-1)+1..2^(bits-1)-1, and scales
            (out, in / block or 1, 1, 1)
    """
    out, width = array.shape[:2]
    most = 2 ** (bits - 1) - 1
    groups = array.astype(np.float32).reshape(out, -1, block or width)
    scale = np.abs(groups).max(axis=2, keepdims=True) / most
    # The scale is stored in `array`'s dtype: the weights are divided by that value.
    scale = np.maximum(scale.astype(array.dtype).astype(np.float32), 2.0**-24)
    data = np.clip(np.rint(groups / scale), -most, most).astype(np.int8)
    return data.reshape(array.shape), scale.reshape(out, -1, 1, 1)


def palettize(array: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """A palette of 2^bits values by 1-D k-means, and the index of each weight in it.

    `array` is float16: k-means runs on a histogram of its 65,536 possible values, which
    takes a fraction of a second for the largest layer.
    """
    patterns = array.view(np.uint16).reshape(-1)
    counts = np.bincount(patterns, minlength=1 << 16)
    every = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    used = np.flatnonzero(counts)
    used = used[np.argsort(every[used], kind="stable")]
    points, mass = every[used].astype(np.float64), counts[used].astype(np.float64)
    size = 2**bits
    # Initial centres: an optimal quantizer's are as dense as the cube root of the
    # weights' density (Panter and Dite).
    bins, edges = np.histogram(points, 4096, weights=mass)
    spread = np.concatenate([[0], np.cumsum(np.cbrt(bins))])
    centres = np.interp((np.arange(size) + 0.5) / size * spread[-1], spread, edges)
    for _ in range(KMEANS_ROUNDS):
        nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, points)
        weight = np.bincount(nearest, mass, size)
        total = np.bincount(nearest, mass * points, size)
        centres = np.sort(np.where(weight > 0, total / np.maximum(weight, 1), centres))
    palette = centres.astype(np.float16)
    wide = palette.astype(np.float64)
    index = np.zeros(1 << 16, np.uint8)
    index[used] = np.searchsorted((wide[1:] + wide[:-1]) / 2, points)
    return palette, index[patterns].reshape(array.shape)
