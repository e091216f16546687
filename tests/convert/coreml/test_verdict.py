"""The figure of a comparison, what passes, and what is said of it."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fastvlm_mlx.convert.coreml import verify
from fastvlm_mlx.convert.coreml.mlpackage import Function, Operation, Package, Value
from fastvlm_mlx.convert.coreml.neural_engine import Finding, check
from fastvlm_mlx.convert.coreml.verify import Verdict, require
from fastvlm_mlx.convert.encoder_reference import Reference, default_images, psnr
from fastvlm_mlx.errors import CheckpointError, OptionError

VERDICT = Verdict("main", 256, 98, 35.0, 40.0, None, (("x", 1234.56),), (), ())


def test_the_figure():
    ones = np.ones((2, 3), np.float32)
    assert psnr(ones, ones) == math.inf
    # An error of a tenth everywhere is 20 dB below a largest value of 1.
    assert psnr(ones, ones * np.float32(0.9)) == pytest.approx(20, abs=1e-5)
    assert psnr(-ones, ones * np.float32(-1.1)) == pytest.approx(20, abs=1e-5)
    assert psnr(ones * 100, ones * 99) == pytest.approx(40)
    # The largest value of the reference counts, and the mean of the squares.
    one_off = np.array([10.0, 0, 0, 0])
    assert psnr(one_off, np.zeros(4)) == pytest.approx(20 * math.log10(2))
    assert math.isnan(psnr(ones, ones * np.nan))
    assert math.isnan(psnr(ones * np.nan, ones))


@pytest.mark.parametrize(
    ("psnr", "strict", "passed"),
    [
        (35.0, None, True),
        (34.999, None, False),
        (35.0, 35.0, True),
        (35.0, 34.999, False),
        (34.999, 35.0, False),
        (math.inf, math.inf, True),
    ],
)
def test_the_limit_itself_passes(psnr, strict, passed):
    assert replace(VERDICT, psnr=psnr, strict_psnr=strict).passed is passed


def test_a_verdict_in_one_line():
    assert str(VERDICT) == (
        "main 256 px: 40.0 dB PSNR, 98 operations, largest value 1235 (x)"
    )
    assert "40.0 dB PSNR (strict 36.2), 98" in str(replace(VERDICT, strict_psnr=36.16))


@pytest.mark.parametrize(
    ("psnr", "strict", "figure"),
    [(30.04, None, "30.0"), (30.0, 20.0, "30.0"), (40.0, 20.0, "20.0")],
)
def test_the_figure_that_failed_is_named(psnr, strict, figure):
    bad = replace(VERDICT, resolution=512, psnr=psnr, strict_psnr=strict)
    require([VERDICT], "P", "stop")
    with pytest.raises(OptionError) as caught:
        require([VERDICT, bad], "P", "stop")
    assert str(caught.value) == (f"P: {figure} dB PSNR at 512 px is below 35 dB; stop")


def test_compressed_weights_need_less():
    def function(*types: str) -> Function:
        return Function([], [Operation(each, {}, []) for each in types], [])

    assert verify.required_psnr(function("const", "conv")) == 35
    assert verify.required_psnr(function("conv", "constexpr_lut_to_dense")) == 25


def judged(*shape: int | None) -> list[Verdict]:
    def outputs(resolution: int, projected: bool):
        raise OptionError(f"asked for {resolution}")

    value = Value("image", "float32", shape)
    package = Package(cast(Any, "P"), {"main": Function([value], [], ["out"])}, "main")
    return verify.judge(package, cast(Any, SimpleNamespace(outputs=outputs)))


@pytest.mark.parametrize(
    "shape",
    [
        *((1, 3, 64), (1, 4, 64, 64), (1, 3, 64, 32), (1, 3, 32, 64)),
        *((1, 3, None, None), (None, 3, 64, 64), (3, 3, 3, 3, 3), (1, 64, 3, 3)),
        *((3,), (), (1, 2, 64, 64), (1, 3, 3, 64)),
    ],
)
def test_what_takes_no_images(shape):
    with pytest.raises(CheckpointError) as caught:
        judged(*shape)
    assert str(caught.value) == (
        f"P: takes image {shape}, not images of one size (1, 3, R, R)"
    )


@pytest.mark.parametrize("size", [0, 4097])
def test_images_of_no_possible_size(size):
    with pytest.raises(
        CheckpointError, match=f"^P: takes images of {size} px, 1 to 40"
    ):
        judged(1, 3, size, size)


@pytest.mark.parametrize("size", [1, 4096])
def test_images_of_the_sizes_at_the_limits(size):
    with pytest.raises(OptionError, match=f"asked for {size}"):
        judged(1, 3, size, size)


@pytest.mark.parametrize(("resolution", "count"), [(512, 2), (576, 1), (64, 3)])
def test_fewer_images_where_they_are_large(tiny_model, resolution, count, coffee):
    reference = Reference(tiny_model, [coffee] * 3)
    assert len(reference.pixels(resolution)) == count
    pixels = reference.pixels(64)
    assert pixels.shape == (3, 64, 64, 3) and 0 <= pixels.min() < pixels.max() <= 1


def test_two_photographs_by_default():
    assert [path.name for path in default_images()] == [
        "coffee.jpg",
        "rocket.jpg",
    ]


def computing(shape: tuple[int | None, ...], dtype: str = "float16", **inputs: Any):
    operation = Operation("relu", inputs, [Value("y", dtype, shape)])
    return check(Function([Value("x", "float16", (1,))], [operation], ["y"]))


@pytest.mark.parametrize(
    ("shape", "leaves"),
    [
        ((1, 1, 1, 1, 64), False),
        ((1, 1, 1, 1, 1, 64), True),
        ((1, 8, 64, 16384), False),
        ((1, 8, 64, 16385), True),
        ((16385, 8, 64, 64), True),
        ((1, None, 64, 64), True),
    ],
)
def test_shapes_at_the_limits(shape, leaves):
    assert any(finding.leaves for finding in computing(shape)) is leaves


@pytest.mark.parametrize(
    ("shape", "dtype", "narrow"),
    [
        ((1, 8, 64, 31), "float16", True),
        ((1, 8, 64, 32), "float16", False),
        ((1, 8, 1, 1), "float16", False),
        ((1, 8, 2, 1), "float16", True),
        ((1, 8, 1, 2), "float16", True),
        ((8, 64, 31), "float16", False),
        ((1, 1, 8, 64, 31), "float16", True),
        ((1, 8, 64, 31), "bool", False),
    ],
)
def test_narrow_axes(shape, dtype, narrow):
    found = computing(shape, dtype)
    assert any("a last axis under 32" in each.reason for each in found) is narrow
    assert all(each.leaves is False for each in found)


@pytest.mark.parametrize(("kernel", "wide"), [([13, 13], False), ([3, 14], True)])
def test_windows_at_the_limit(kernel, wide):
    found = computing((1, 8, 64, 64), kernel_sizes=[np.array(kernel)])
    assert bool(found) is wide


def test_several_operations_are_counted():
    finding = Finding("too wide", ("a", "b"))
    assert str(finding) == (
        "2 operations may leave the Neural Engine: too wide (first a)"
    )
