"""Stores weights as constants of a MIL program: plain, in 8 bits, or palettized.

Compression is written with MIL's `constexpr` operations directly. coremltools.optimize
would need scikit-learn for small tensors, minutes of k-means for large ones, and a
second pass over the model.
"""

from typing import Any

import numpy as np

from fastvlm_mlx.convert.weight_compression import (
    BLOCK,
    cast_weights,
    palettize,
    quantize,
)


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
        return cast_weights(array, self.dtype, name, self.warnings)


def pack_bits(indices: np.ndarray, bits: int) -> np.ndarray:
    """Fields of `bits` bits, least significant bit first, as MIL stores palettes."""
    fields = np.unpackbits(indices.reshape(-1, 1), axis=1, bitorder="little")
    return np.packbits(fields[:, :bits].reshape(-1), bitorder="little")
