"""MLX's products on the CPU go to OpenBLAS, whatever was imported first."""

import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.cpu import openblas

linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")


def run(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_bind_may_be_called_again_and_products_stay_right():
    openblas.bind()
    name = openblas.library_name()
    openblas.bind()
    assert openblas.library_name() == name
    a, b = (np.random.default_rng(i).normal(size=(65, 65)) for i in range(2))
    given = mx.matmul(mx.array(a, mx.float32), mx.array(b, mx.float32))
    assert np.allclose(np.array(given), a @ b, atol=1e-4)


@linux
def test_name_tells_the_library_before_and_after():
    before, after = run(
        "import mlx.core as mx; from fastvlm_mlx.cpu import openblas as blas;"
        "print(blas.library_name()); mx.eval(mx.ones((9, 9)) @ mx.ones((9, 9)));"
        "blas.bind(); print(blas.library_name())"
    ).splitlines()
    assert "OpenBLAS" in before or "pip install scipy-openblas32" in before
    if "OpenBLAS" in after:
        assert after.startswith("OpenBLAS 0.") and after.endswith(")")


@linux
def test_without_openblas_nothing_changes(monkeypatch: pytest.MonkeyPatch):
    out = run(
        "from fastvlm_mlx.cpu import openblas as blas;"
        "blas._candidates = lambda: [('no.so', '')];"
        "name = blas.library_name(); blas.bind(); print(blas.library_name() == name)"
    )
    assert out == "True\n"


def test_a_file_that_is_no_library_has_no_slot(tmp_path):
    file = tmp_path / "libmlx.so"
    file.write_bytes(b"\xcf\xfa\xed\xfe" + bytes(100))
    assert openblas._slot_offset(file, "cblas_sgemm") is None


@linux
def test_importing_binds_nothing_and_loading_does():
    before, between, after = run(
        "from fastvlm_mlx.cpu import openblas as blas; import mlx.core;"
        "print(blas.library_name());"
        "import fastvlm_mlx.fastvlm, fastvlm_mlx.model.ops;"
        "print(blas.library_name());"
        "fastvlm_mlx.fastvlm.load('demo'); print(blas.library_name())"
    ).splitlines()
    assert before == between
    assert "OpenBLAS" in after or after == before
