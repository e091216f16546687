"""The kernels compiled for a processor with fewer instructions than this one's."""

import ctypes
import platform
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx import device
from fastvlm_mlx.cpu import kernels, openblas
from fastvlm_mlx.cpu.compiler import compiled
from tests.support.assert_close import assert_close

# Of the standard deviation: products are rounded before they are added; and x is, in
# steps of a block's largest number, where a block is as long as a vector.
LIMIT, LIMIT_OF_INTEGERS = 1e-5, 5e-4


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_products_of_few_rows(tmp_path_factory, monkeypatch, bits):
    if device.on_gpu() or kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    library = least(tmp_path_factory.getbasetemp() / "least.so")
    mx.random.seed(bits)
    x, weight, bias = (mx.random.normal(s) for s in ((5, 384), (70, 384), (70,)))

    def product() -> mx.array:
        if bits == 16:
            return kernels.linear_bfloat16(x, weight.astype(mx.bfloat16), bias)
        parts = mx.quantize(weight, 32, bits)
        return kernels.linear_quantized(x, *parts, bias, group_size=32, bits=bits)

    native = product()
    monkeypatch.setattr(kernels, "library", lambda: library)
    limit = LIMIT if bits == 16 else LIMIT_OF_INTEGERS
    assert_close(f"{bits} bits", product(), native, limit)


def least(path: Path) -> Any:
    """The kernels for any processor of this machine's kind."""
    flags = [flag for flag in kernels.FLAGS if flag != "-march=native"]
    if platform.machine() == "x86_64":
        flags.append("-march=x86-64")
    assert shutil.which("g++") and compiled(path, kernels.SOURCES, flags)
    library = ctypes.CDLL(str(path))
    product = openblas.sgemm_addresses()
    assert product is not None
    counts = map(ctypes.c_long, (openblas.cores(), openblas.default_threads()))
    library.fv_init(*map(ctypes.c_void_p, product), *counts)
    return library
