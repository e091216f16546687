"""A linear layer's parameters as stored, as the C++ kernels take them."""

import ctypes
from typing import Any, cast

import mlx.core as mx

from fastvlm_mlx.cpu import mapped_weights

_SIZES = ("dim", "out_dim", "group", "bits", "scale_bits")


class Matrix(ctypes.Structure):
    """`Matrix` of stored_weights.h. It points to arrays that must outlive it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scales", "biases", "bias")),
        *((name, ctypes.c_long) for name in _SIZES),
    )


def matrix(
    weight: mx.array,
    bias: mx.array | None,
    *,
    scales: mx.array | None = None,
    biases: mx.array | None = None,
    group_size: int = 0,
    bits: int = 16,
) -> Matrix:
    """Shapes and dtypes as for `kernels.linear_bfloat16` and `linear_quantized`.

    Raises:
        TypeError: an array is a view that is not contiguous.
    """
    out_dim, dim = weight.shape
    if bits < 16:
        dim = dim * 32 // bits
    arrays = (weight, scales, biases, bias)
    pointers = [array if array is None else address(array) for array in arrays]
    return Matrix(*pointers, dim, out_dim, group_size, bits, scale_bits(scales))


def scale_bits(scales: mx.array | None) -> int:
    """Of the scales and biases of a quantized weight; 0 of one without."""
    return 0 if scales is None else scales.itemsize * 8


def address(array: mx.array) -> int:
    """Where its numbers lie. Unless it is mapped (`mapped_weights.py`), the array is
    evaluated; it must outlive the use.

    Raises:
        TypeError: it is a view that is not contiguous.
    """
    mapped = mapped_weights.address(array)
    if mapped is not None:
        return mapped
    return ctypes.addressof(ctypes.c_char.from_buffer(cast(Any, array)))
