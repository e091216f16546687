"""Rounding to float16 in three modes, and GELU by table.

The modes bound what hardware does:

- `exact`: float32 throughout: only the stored weights are rounded.
- `typed`: float32 inside an operation, its result rounded to its declared type.
- `strict`: every intermediate inside an operation is rounded too: sums, squares,
  exponentials.
"""

import functools
import math

import numpy as np

MODES = ("exact", "typed", "strict")

# Rational minimax approximation of erf on [-4, 4] (Eigen's and XLA's): within 3e-7.
_ERF_P = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_Q = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)

# GELU is computed in passes over this many values, to stay in the CPU's cache.
VALUES_PER_PASS = 1 << 15


def to_float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32, copy=False)


def round_to_float16(x: np.ndarray) -> np.ndarray:
    """Rounds float32 values to those of float16; beyond its range they become
    infinite, without a warning, as on a device."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def no_rounding(x: np.ndarray) -> np.ndarray:
    return x


def erf(x: np.ndarray) -> np.ndarray:
    """The error function of a float32 array."""
    x = np.clip(x, -4, 4)
    square = x * x
    top, bottom = (np.full_like(x, series[0]) for series in (_ERF_P, _ERF_Q))
    for series, sum_ in ((_ERF_P, top), (_ERF_Q, bottom)):
        for coefficient in series[1:]:
            sum_ *= square
            sum_ += np.float32(coefficient)
    return x * top / bottom


def gelu(x: np.ndarray) -> np.ndarray:
    """The exact GELU of a float32 array, in float32."""
    out = np.empty_like(x)
    flat, result = x.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, VALUES_PER_PASS):
        part = flat[start : start + VALUES_PER_PASS]
        result[start : start + VALUES_PER_PASS] = (
            0.5 * part * (1 + erf(part * np.float32(0.5**0.5)))
        )
    return out


def gelu_float16(x: np.ndarray, strict: bool) -> np.ndarray:
    """GELU of a float16 array, rounded to float16's values, as a float32 array."""
    return np.take(_gelu_table(strict), x.view(np.uint16))


@functools.cache
def _gelu_table(strict: bool) -> np.ndarray:
    x = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    x = x.astype(np.float64)
    step = _round16 if strict else no_rounding
    with np.errstate(invalid="ignore", over="ignore"):
        inner = step(x * math.sqrt(0.5))
        erf64 = step(np.array([math.erf(v) for v in inner]))
        out = step(0.5 * x) * step(1 + erf64)
        return _round16(out).astype(np.float32)


def _round16(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float16).astype(np.float64)
