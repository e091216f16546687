"""The device and the dtypes: chosen by machine, stored weights and FASTVLM_DEVICE."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx import device
from fastvlm_mlx.device import cpu_only, device_dtype
from fastvlm_mlx.model import parameters
from tests.support.compiling import compiling
from tests.support.mock_model import MockModel
from tests.support.paths import EXAMPLES

M1, M2_MAX, M3, CUDA = "applegpu_g13g", "applegpu_g14s", "applegpu_g15g", "sm_90"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Calls the default device a GPU of that architecture."""

    def pretend(architecture: str) -> None:
        info = {"architecture": architecture}
        monkeypatch.setattr(device, "on_cpu", lambda: False)
        monkeypatch.setattr(device, "on_gpu", lambda: True)
        monkeypatch.setattr(mx, "device_info", lambda *_: info)

    return pretend


F16, BF16, F32 = mx.float16, mx.bfloat16, mx.float32


@pytest.mark.parametrize(
    ("architecture", "stored", "wanted"),
    [
        (M1, [F32], F16),
        (M1, [BF16], F16),
        (M2_MAX, [BF16], F16),
        (M3, [BF16], BF16),
        (M3, [F32], BF16),
        (M3, [F16], F16),
        (M3, [], BF16),
        (M3, [mx.uint32], BF16),
        (CUDA, [F16], F16),
        (CUDA, [F32], BF16),
    ],
    ids=str,
)
def test_dtype_of_a_gpu(gpu, architecture, stored, wanted):
    gpu(architecture)
    assert device_dtype(mx.zeros(8, dtype=dtype) for dtype in stored) == wanted


def test_most_of_the_bytes_decide(gpu):
    gpu(M3)
    many, few = mx.zeros(100, dtype=F16), mx.zeros(60, dtype=BF16)
    assert device_dtype([few, many]) == F16
    assert device_dtype([mx.zeros(60, dtype=F32), many]) == BF16  # 240 bytes to 200


def test_dtype_of_a_cpu():
    with patch.object(device, "on_cpu", lambda: True):
        assert device_dtype([mx.zeros(3, dtype=F16)]) == F32


@pytest.fixture
def in_float16(gpu: Callable[[str], None]) -> Iterator[Callable[[bool], MockModel]]:
    """Makes a model as on an M1 from bfloat16 weights; its features may overflow."""

    def make(overflows: bool) -> MockModel:
        model = MockModel()
        arrays: Any = parameters.tree_flatten(model.parameters())
        weights = {name: value.astype(BF16) for name, value in arrays}
        if overflows:  # final_conv's gate ends in 0..1, the map before it does not
            weights["vision_tower.final_conv.depthwise.bias"] += 60_000
            weights["vision_tower.final_conv.depthwise.weight"] *= 10_000
        gpu(M1)
        with patch.object(parameters, "device_dtype", device_dtype):
            parameters.assign(model, weights)
        assert model.vision_tower is not None
        assert model.vision_tower.stem.conv.weight.dtype == F16
        return model

    with compiling(False):
        yield make


PIXELS = np.random.default_rng(0).random((1, 128, 128, 3), np.float32)


@pytest.mark.parametrize("overflows", [False, True])
def test_features_that_overflow_float16_are_computed_in_bfloat16(in_float16, overflows):
    model = in_float16(overflows)
    assert mx.isfinite(model.encode_pixels(PIXELS)).all()
    wanted = BF16 if overflows else F16
    assert model.vision_tower.stem.conv.weight.dtype == wanted
    assert model.projector.layers[0].weight.dtype == wanted
    assert not model.check_finite  # once


def test_features_of_two_threads_that_overflow_float16(in_float16):
    model = in_float16(True)
    finite = []

    def encode() -> None:
        finite.append(mx.isfinite(model.encode_pixels(PIXELS)).all().item())

    other = threading.Thread(target=encode)

    def meets_another(x: mx.array) -> mx.array:
        if other.ident is None:
            other.start()
            other.join(0.5)
        return isfinite(x)

    isfinite = mx.isfinite
    with patch.object(mx, "isfinite", meets_another):
        encode()
        other.join()
    assert finite == [True, True]


def test_cpu_only_ends_with_its_block():
    before = mx.default_device()
    with pytest.raises(RuntimeError), cpu_only():
        assert mx.default_device() == mx.cpu
        raise RuntimeError
    assert mx.default_device() == before


def cli(*arguments: str, device: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastvlm_mlx", *arguments],
        env={**os.environ, "FASTVLM_DEVICE": device},
        capture_output=True,
        text=True,
    )


ASK = ("chat", str(EXAMPLES / "number.png"), "-m", "demo", "-p", "What is this?")


def test_fastvlm_device_cpu():
    assert cli("info", "demo", device="cpu").stdout.count("cpu (")
    assert cli(*ASK, "--max-tokens", "4", device="cpu").returncode == 0


def test_a_device_that_is_not_there():
    run = cli(*ASK, device="tpu")
    assert run.returncode == 1
    assert run.stderr == "error: FASTVLM_DEVICE=tpu: unknown; use cpu or gpu\n"
    if not mx.is_available(mx.gpu):
        run = cli(*ASK, device="gpu")
        assert run.returncode == 1
        assert run.stderr == (
            "error: FASTVLM_DEVICE=gpu: this MLX has no GPU; unset it, or install MLX"
            " for one\n"
        )
