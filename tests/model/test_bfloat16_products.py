"""A model whose products of many rows are computed in bfloat16, against float32."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import fastvlm_mlx
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.convert.encoder_reference import psnr
from fastvlm_mlx.cpu import bfloat16, kernels
from fastvlm_mlx.fastvlm import load
from fastvlm_mlx.model.encoder_identity import encoder_hash
from tests.model.test_goldens import converted, pixels, read
from tests.support import checkpoints
from tests.support.assert_close import assert_close
from tests.support.checkpoints import Spec
from tests.support.paths import EXAMPLES
from tests.test_reference_goldens import LAYOUTS

pytest_plugins = ["tests.support.bfloat16_forms"]

LEAST = 45  # dB
DEMO = Path(fastvlm_mlx.__file__).parent / "demo"


@pytest.fixture(autouse=True)
def as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_of_reference_checkpoints(form, library, reference: Path, layout: str):
    folder = reference / layout
    with np.load(folder / "golden.npz") as golden:
        image, wanted = golden["image"].transpose(0, 2, 3, 1), golden["features"]
    model, exact = load(folder), load(folder, dtype="float32")
    features = model.encode_features(image)
    figure = psnr(wanted, np.array(features))
    print(f"{layout}: {figure:.1f} dB PSNR with products in bfloat16")
    assert features.dtype == mx.float32 and figure >= LEAST
    changed, kept = encoder_hash(model, 256), encoder_hash(exact, 256)
    known = exact.encode_features(image)
    bfloat16.use(library, "off")
    assert not mx.array_equal(model.encode_features(image), features)
    # Features on disk are of one form; float32 has no other, to the last bit.
    assert encoder_hash(model, 256) != changed
    assert encoder_hash(exact, 256) == kept
    assert mx.array_equal(exact.encode_features(image), known)


@pytest.mark.parametrize("name", ["mci", "multi_scale"])
def test_features_of_other_encoders(form, name: str, tmp_path: Path):
    tensors, golden = read(name)
    config, wanted = None, "features"
    if name == "multi_scale":
        stages = golden["stages"].tolist()
        config = {"mm_multi_scale": "dwconv", "mm_multi_scale_stages": stages}
        wanted = "dwconv"
    converted(tmp_path, tensors, config)
    features = load(tmp_path / "out").encode_features(pixels(golden["image"]))
    figure = psnr(golden[wanted], np.array(features))
    print(f"{name}: {figure:.1f} dB PSNR with products in bfloat16")
    assert figure >= LEAST


@pytest.mark.parametrize("q_bits", [None, 8, 4])
def test_a_model_answers_as_with_float32(form, library, tmp_path: Path, q_bits):
    source = checkpoints.write(tmp_path / "source", Spec(hidden=64, dtype="bfloat16"))
    quantized = {"q_bits": q_bits, "q_group_size": 32} if q_bits else {}
    to_mlx.convert(source, tmp_path / "model", **quantized)
    exact, model = load(tmp_path / "model", dtype="float32"), load(tmp_path / "model")
    ids = mx.array([list(range(1, 31))])
    logits = model(ids)
    assert_close("logits", logits, exact(ids), 0.1)
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    options = {"max_tokens": 12, "ignore_eos": True}
    assert model.ask("What?", image, **options) == exact.ask("What?", image, **options)
    bfloat16.use(library, "off")
    assert not mx.array_equal(model(ids), logits)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, its weights bfloat16."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    shutil.copytree(DEMO, folder)
    tensors: Any = mx.load(str(DEMO / "model.safetensors"))
    tensors = {name: array.astype(mx.bfloat16) for name, array in tensors.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
    return folder


def test_the_demo_answers_as_in_float32(form, demo: Path):
    exact, model = load("demo", dtype="float32"), load(demo)
    examples = json.loads((EXAMPLES / "questions.json").read_text())
    asked = [
        (pair["question"], EXAMPLES / name)
        for name, pairs in examples.items()
        for pair in pairs[::4]
    ]
    assert len(asked) > 15
    for question, image in asked:
        wanted = exact.ask(question, image, temperature=0.0)
        assert model.ask(question, image, temperature=0.0) == wanted, question
