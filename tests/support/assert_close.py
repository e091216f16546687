"""Compares two arrays by the largest difference over the standard deviation."""

from typing import Any

import numpy as np


def assert_close(name: str, given: Any, wanted: Any, limit: float) -> float:
    """Requires the largest difference to be at most `limit` of `wanted`'s standard
    deviation; prints and returns that ratio."""
    given, wanted = np.asarray(given, np.float32), np.asarray(wanted, np.float32)
    assert given.shape == wanted.shape, f"{name}: {given.shape}, not {wanted.shape}"
    difference = np.abs(given - wanted)
    place = np.unravel_index(int(np.argmax(difference)), difference.shape)
    ratio = float(difference.max() / wanted.std())
    line = (
        f"{name}: largest difference {ratio:.2e} of the std at"
        f" {tuple(map(int, place))} ({given[place]:.6g} for {wanted[place]:.6g})"
    )
    print(line)
    assert ratio <= limit, f"{line}; the limit is {limit:g}"
    return ratio
