"""The encoder with bfloat16 weights on a Linux CPU, against float32."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from fastvlm_mlx import device
from fastvlm_mlx.convert.encoder_reference import psnr
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.fastvlm import FastVLM, load
from fastvlm_mlx.model.encoder_identity import encoder_hash
from tests.model.test_goldens import converted, pixels, read
from tests.test_reference_goldens import LAYOUTS

LEAST = 45  # dB


@pytest.fixture(autouse=True)
def compiled() -> None:
    if device.on_gpu() or kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")


def encoder_dtypes(model: FastVLM) -> set[mx.Dtype]:
    assert model.vision_tower is not None
    flat: Any = tree_flatten(model.vision_tower.parameters())
    return {array.dtype for _, array in flat}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reference_checkpoints(layout: str, reference: Path, monkeypatch):
    folder = reference / layout
    with np.load(folder / "golden.npz") as golden:
        image, wanted = golden["image"].transpose(0, 2, 3, 1), golden["features"]
    small = load(folder)
    assert encoder_dtypes(small) == {mx.float32}  # too small to pay
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    model, exact = load(folder), load(folder, dtype="float32")
    features = model.encode_features(image)
    figure = psnr(wanted, np.array(features))
    print(f"{layout}: {figure:.1f} dB PSNR with bfloat16 weights")
    assert features.dtype == mx.float32 and figure >= LEAST
    assert encoder_dtypes(model) == {mx.float32, mx.bfloat16}
    # float32 is what it always was, to the last bit.
    assert encoder_dtypes(exact) == {mx.float32}
    assert mx.array_equal(exact.encode_features(image), small.encode_features(image))
    assert psnr(wanted, np.array(exact.encode_features(image))) > figure
    # Features that were kept on disk of one are not taken for the other's.
    assert encoder_hash(exact, 256) == encoder_hash(small, 256)
    assert encoder_hash(exact, 256) != encoder_hash(model, 256)
    # As while training.
    with kernels.switched_off():
        plain = model.encode_features(image)
    assert psnr(np.array(features), np.array(plain)) > 90


@pytest.mark.parametrize("name", ["mci", "multi_scale"])
def test_other_encoders(name: str, tmp_path: Path, monkeypatch):
    tensors, golden = read(name)
    config = wanted = None
    if name == "multi_scale":
        stages = golden["stages"].tolist()
        config = {"mm_multi_scale": "dwconv", "mm_multi_scale_stages": stages}
        wanted = golden["dwconv"]
    converted(tmp_path, tensors, config)
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    model = load(tmp_path / "out")
    assert encoder_dtypes(model) == {mx.float32, mx.bfloat16}
    features = model.encode_features(pixels(golden["image"]))
    figure = psnr(golden["features"] if wanted is None else wanted, np.array(features))
    print(f"{name}: {figure:.1f} dB PSNR with bfloat16 weights")
    assert figure >= LEAST
