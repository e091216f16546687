"""Stores weights as constants of a MIL program: plain, in 8 bits, or palettized.

Compression is written with MIL's `constexpr` operations directly. coremltools.optimize
would need scikit-learn for small tensors, minutes of k-means for large ones, and a
second pass over the model. Only 1x1 convolutions are compressed: they hold 99 % of the
weights, and a reparameterized depthwise kernel has an outlier at its centre.
"""

from typing import Any

import numpy as np

# Input channels that share a scale in `int8-block`.
BLOCK = 32

KMEANS_ROUNDS = 25


class Weights:
    """Casts, compresses and stores the weights of one program.

    Args:
        precision: `float16` or `float32`.
        compression: a name of `options.COMPRESSIONS`, or None.
        modern: the program is for iOS 18, which has other operations for compression.

    Attributes:
        warnings: one line for each weight that overflows or vanishes in `precision`.
    """

    def __init__(self, precision: str, compression: str | None, modern: bool):
        from coremltools.converters.mil import Builder

        self.builder: Any = Builder
        self.dtype = np.dtype(precision)
        self.compression = compression
        self.modern = modern
        self.warnings: list[str] = []

    def scalar(self, value: float) -> np.generic:
        return self.dtype.type(value)

    def plain(self, array: np.ndarray, name: str) -> Any:
        """A constant of the program's precision; any shape."""
        return self.builder.const(val=self._cast(array, name), name=name)

    def pointwise(self, array: np.ndarray, name: str) -> Any:
        """The kernel of a 1x1 convolution, (out, in, 1, 1), with `compression`."""
        compression = self.compression
        if compression == "int8-block" and array.shape[1] % BLOCK:
            compression = "int8"  # blocks would not tile the channels
        if compression is None:
            return self.plain(array, name)
        cast = self._cast(array, name)
        if compression.startswith("palette"):
            return self._palettized(cast, int(compression[-1]), name)
        return self._quantized(cast, BLOCK if compression != "int8" else None, name)

    def _quantized(self, array: np.ndarray, block: int | None, name: str) -> Any:
        data, scale = quantize(array, block)
        scale = scale.astype(self.dtype)
        if self.modern:
            return self.builder.constexpr_blockwise_shift_scale(
                data=data, scale=scale, name=name
            )
        scale = scale.reshape(-1)
        # One for each channel, as coremltools writes it: nobody has tested a scalar
        # beside a vector scale on macOS' compiler.
        return self.builder.constexpr_affine_dequantize(
            quantized_data=data,
            zero_point=np.zeros(scale.shape, np.int8),
            scale=scale,
            axis=np.int32(0),
            name=name,
        )

    def _palettized(self, array: np.ndarray, bits: int, name: str) -> Any:
        palette, indices = palettize(array, bits)
        if not self.modern:
            return self.builder.constexpr_lut_to_dense(
                indices=pack_bits(indices, bits),
                lut=palette,
                shape=np.array(array.shape, np.uint32),
                name=name,
            )
        from coremltools.converters.mil.mil import types

        kind = types.string_to_builtin(f"uint{bits}")
        return self.builder.constexpr_lut_to_dense(
            indices=indices.astype(types.nptype_from_builtin(kind)),
            lut=palette.reshape(1, 1, 1, 1, -1, 1),
            name=name,
        )

    def _cast(self, array: np.ndarray, name: str) -> np.ndarray:
        with np.errstate(over="ignore"):
            cast = array.astype(self.dtype)
        overflowed = int(np.sum(~np.isfinite(cast)))
        vanished = int(np.sum((cast == 0) & (array != 0)))
        if overflowed:
            largest = float(np.max(np.abs(array)))
            self.warnings.append(
                f"{name}: {overflowed} of {array.size} weights overflow {self.dtype}"
                f" (largest {largest:.3g}); use float32"
            )
        # Some weights vanish in any layer; warn from one in a hundred.
        if vanished > array.size / 100:
            self.warnings.append(
                f"{name}: {vanished} of {array.size} weights vanish in {self.dtype}"
            )
        return cast


def quantize(array: np.ndarray, block: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with a scale per output channel, or per `block` of its inputs.

    Shapes:
        array: (out, in, 1, 1)
        returns int8 of the same shape, and scales (out, in / block or 1, 1, 1)
    """
    out, width = array.shape[:2]
    groups = array.astype(np.float32).reshape(out, -1, block or width)
    scale = np.abs(groups).max(axis=2, keepdims=True) / 127
    # The scale is stored in `array`'s dtype: the weights are divided by that value.
    scale = np.maximum(scale.astype(array.dtype).astype(np.float32), 2.0**-24)
    data = np.clip(np.rint(groups / scale), -127, 127).astype(np.int8)
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


def pack_bits(indices: np.ndarray, bits: int) -> np.ndarray:
    """Fields of `bits` bits, least significant bit first, as MIL stores palettes."""
    fields = np.unpackbits(indices.reshape(-1, 1), axis=1, bitorder="little")
    return np.packbits(fields[:, :bits].reshape(-1), bitorder="little")
