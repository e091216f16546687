"""The number of OpenBLAS' threads stays what the user's variable says."""

import ctypes
import os
import subprocess
import sys

import pytest

from fastvlm_mlx.cpu import kernels, openblas
from tests.support.paths import ROOT

# Runs a kernel and prints the number of threads that OpenBLAS then has.
AFTER_A_KERNEL = """
import mlx.core as mx
from fastvlm_mlx.cpu import kernels, openblas
from tests.cpu.test_blas_threads import threads
openblas.bind()
assert kernels.library() is not None
mx.eval(kernels.gelu(mx.ones((64, 64))))
print(threads())
"""


def threads() -> int:
    """That OpenBLAS has now."""
    slot = openblas._slot()
    assert slot is not None
    library = ctypes.CDLL(openblas._library(slot.value))
    for prefix in ("scipy_", ""):
        if hasattr(library, f"{prefix}openblas_get_num_threads"):
            return getattr(library, f"{prefix}openblas_get_num_threads")()
    raise AssertionError("no OpenBLAS")


def test_a_kernel_gives_back_one_thread():
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_KERNEL],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    ("variables", "count"),
    [
        ({}, 4),
        ({"OPENBLAS_NUM_THREADS": "1"}, 1),
        ({"OPENBLAS_NUM_THREADS": "16"}, 4),
        ({"OPENBLAS_NUM_THREADS": "0", "OMP_NUM_THREADS": "2"}, 2),
        ({"OPENBLAS_NUM_THREADS": "many"}, 4),
    ],
)
def test_the_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], count: int
):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(openblas, "cores", lambda: 4)
    assert openblas.default_threads() == count


def test_one_thread_and_back(monkeypatch: pytest.MonkeyPatch):
    if openblas.sgemm_addresses() is None:
        pytest.skip("MLX does not use OpenBLAS here")
    before = threads()
    monkeypatch.setattr(openblas, "default_threads", lambda: before)
    with openblas.one_thread():
        assert threads() == 1
    assert threads() == before
