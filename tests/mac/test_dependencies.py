"""The versions that pyproject.toml allows: wheels for every Mac, and kernels in MLX's.

These need a package index and are run by `make check-mac` alone. uv resolves for
another system and Python than this one.
"""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from fastvlm_mlx.model.ops import FUSED_HEADS
from tests.support.paths import ROOT

pytestmark = pytest.mark.mac

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = ("14.0", "15.0", "26.0")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_a_wheel(system: str, python: str):
    run = subprocess.run(
        [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"]
        + ["--extra", "serve", "--only-binary", ":all:", "--no-header"]
        + ["--python-platform", "aarch64-apple-darwin", "--python-version", python],
        cwd=ROOT,
        env={**os.environ, "MACOSX_DEPLOYMENT_TARGET": system},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    names = re.findall(r"^([\w-]+)==", run.stdout, re.MULTILINE)
    assert {"mlx", "mlx-metal", "mlx-lm"} <= {*names}
    assert ("coremltools" in names) is (python != "3.14")


def test_the_pythons_are_those_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={PYTHONS[0]}"


@pytest.fixture(scope="module", params=["macosx_15_0_arm64", "macosx_26_0_arm64"])
def metallib(request: pytest.FixtureRequest, tmp_path_factory) -> bytes:
    """The compiled kernels of the MLX in use, as shipped for macOS."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        + ["--only-binary=:all:", "--platform", request.param, "--dest", str(folder)]
        + [f"mlx-metal=={metadata.version('mlx')}"],
        check=True,
    )
    with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith("mlx.metallib"))
        return wheel.read(name)


def test_the_heads_that_have_a_fused_attention(metallib: bytes):
    found = {
        int(size) for size in re.findall(rb"steel_attention_\w*?_bd(\d+)_", metallib)
    }
    print("fused attention for heads of", sorted(found))
    # The build for macOS 26 has one for heads of 512 too.
    assert {*FUSED_HEADS} <= found
    assert min(FUSED_HEADS) == min(found)


def test_depthwise_convolutions_have_a_kernel(metallib: bytes):
    found = {name.decode() for name in re.findall(rb"depthwise_conv_2d_\w+", metallib)}
    print(sorted(found))
    assert {"float16", "bfloat16", "float32"} <= {n.split("_")[-1] for n in found}
