"""The rules for the Neural Engine find the operations that break them."""

import numpy as np
import pytest

from fastvlm_mlx.convert.coreml.mlpackage import Function, Operation, Value
from fastvlm_mlx.convert.coreml.neural_engine import Finding, check


def function(shape: tuple[int | None, ...], dtype: str, **inputs) -> Function:
    x, y = (Value(name, dtype, shape) for name in "xy")
    return Function([x], [Operation("relu", {"x": ["x"], **inputs}, [y])], ["y"])


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((1, 3, 64, 64), "float32", "float32 arithmetic"),
        ((4,), "int32", "int32 arithmetic"),
        ((1, 3, None, 64), "float16", "a shape that is not fixed"),
        ((1, 1, 1, 1, 1, 64), "float16", "more than 5 axes"),
        ((1, 20000, 1, 64), "float16", "an axis longer than 16384"),
    ],
)
def test_what_leaves(shape, dtype, reason):
    assert check(function(shape, dtype)) == [Finding(reason, ("y",))]


def test_wide_windows_leave():
    (found,) = check(
        function((1, 8, 64, 64), "float16", kernel_sizes=[np.array([16, 16])])
    )
    assert str(found) == (
        "1 operation may leave the Neural Engine: a window wider than 13 (first y)"
    )


def test_narrow_maps_only_waste_it():
    (found,) = check(function((1, 8, 16, 16), "float16"))
    assert not found.leaves
    assert str(found) == (
        "1 operation may use it poorly: a last axis under 32, padded to it (first y)"
    )


def test_what_suits_it_is_not_named():
    assert check(function((1, 8, 64, 64), "float16")) == []
    assert check(function((1, 8, 1, 1), "float16")) == []  # a gate: tiny anyway
    cast = Operation("cast", {"x": ["x"]}, [Value("y", "float32", (1, 3, 64, 64))])
    assert check(Function([Value("x", "float16", (1, 3, 64, 64))], [cast], ["y"])) == []
