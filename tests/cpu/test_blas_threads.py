"""The number of OpenBLAS' threads stays what the user's variable says."""

import os
import subprocess
import sys

import pytest

from fastvlm_mlx.cpu import kernels

# Runs one kernel, then prints the number of threads that OpenBLAS has.
AFTER_A_KERNEL = """
import ctypes
import mlx.core as mx
from fastvlm_mlx.cpu import kernels, openblas
openblas.bind()
assert kernels.library() is not None
mx.eval(kernels.gelu(mx.ones((64, 64))))
library = ctypes.CDLL(openblas._library(openblas._slot().value))
for prefix in ("scipy_", ""):
    if hasattr(library, prefix + "openblas_get_num_threads"):
        print(getattr(library, prefix + "openblas_get_num_threads")())
        break
"""


def test_a_kernel_gives_back_one_thread():
    if kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    done = subprocess.run(
        [sys.executable, "-c", AFTER_A_KERNEL],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, 4),
        ({"OPENBLAS_NUM_THREADS": "1"}, 1),
        ({"OPENBLAS_NUM_THREADS": "16"}, 4),
        ({"OPENBLAS_NUM_THREADS": "0", "OMP_NUM_THREADS": "2"}, 2),
        ({"OPENBLAS_NUM_THREADS": "many"}, 4),
    ],
)
def test_the_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], threads: int
):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert kernels.blas_threads(4) == threads
