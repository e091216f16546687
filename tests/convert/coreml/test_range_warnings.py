"""Which values are named as too large for float16."""

import pytest

from fastvlm_mlx.convert.coreml.mil_evaluator import Ranges
from fastvlm_mlx.convert.coreml.mlpackage import Function, Operation, Value
from fastvlm_mlx.convert.coreml.verify import _range_warnings

HALF = 65504 / 2  # twice the values of the images compared must fit


def warnings(ranges: Ranges, dtype: str = "float16") -> list[str]:
    operation = Operation("add", {}, [Value("x", dtype, (1,))])
    return list(_range_warnings(Function([], [operation], ["x"]), ranges))


@pytest.mark.parametrize(
    ("value", "warns"),
    [
        (0, False),
        (HALF - 16, False),
        (HALF, False),
        (HALF + 1, True),
        (40000, True),
        (65504, True),
        (65505, True),
        (float("inf"), True),
        (float("nan"), True),
    ],
)
def test_values_beyond_half_of_float16(value: float, warns: bool):
    assert bool(warnings(Ranges(largest={"x": value}))) == warns
    assert bool(warnings(Ranges(squares={"x": value}))) == warns
    assert not warnings(Ranges(largest={"x": value}, squares={"x": value}), "float32")


def test_the_lines():
    assert warnings(Ranges({"x": 40000.0}, {"x": 50000.0})) == [
        "x reaches 4e+04 and float16 ends at 65504; use --precision float32",
        "x adds up squares to 5e+04, which a float16 sum cannot hold; use a larger"
        " --norm-prescale",
    ]
