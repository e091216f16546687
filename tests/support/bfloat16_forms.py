"""A plugin of fixtures: products of many rows in bfloat16, in both forms."""

import ctypes
from collections.abc import Iterator

import pytest

from fastvlm_mlx import device
from fastvlm_mlx.cpu import bfloat16, kernels


@pytest.fixture
def library() -> Iterator[ctypes.CDLL]:
    """The compiled kernels; their form may be changed."""
    found = None if device.on_gpu() else kernels.library()
    if found is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    before = bfloat16.form(found)
    yield found
    bfloat16.use(found, before)


@pytest.fixture(params=["emulated", "native"])
def form(request: pytest.FixtureRequest, library: ctypes.CDLL) -> str:
    """The form that the kernels have in this test."""
    if request.param == "native" and not library.fv_has_native_bfloat16():
        pytest.skip("this processor multiplies no bfloat16 numbers")
    bfloat16.use(library, request.param)
    return request.param
