"""The folder of `export mlx-vlm`: converts back to the same model, and loads in
mlx-vlm itself where a Python with mlx-vlm is named by FASTVLM_MLX_VLM_PYTHON."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.convert import to_mlx_vlm
from fastvlm_mlx.convert.to_mlx_vlm import RELEASED, build_vision_config
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.fastvlm import load
from fastvlm_mlx.model.vision_config import VisionConfig
from tests.support.assert_close import assert_close
from tests.support.paths import TESTS

LAYOUTS = ("llava-mini", "llava-mini-train", "hf-mini", "mlx-community-mini-4bit")
PYTHON = os.environ.get("FASTVLM_MLX_VLM_PYTHON")


@pytest.fixture(scope="module", params=LAYOUTS)
def made(request, reference: Path, tmp_path_factory) -> tuple[Path, Path]:
    source = reference / request.param
    out = tmp_path_factory.mktemp("mlx-vlm") / "model"
    to_mlx_vlm.export(source, out, dtype="float32")
    return source, out


def test_it_reads_back_as_the_same_encoder(made):
    source, out = made
    golden = np.load(source / "golden.npz")
    model = load(out, dtype="float32")
    assert model.vision_tower is not None
    pixels = mx.array(golden["image"].transpose(0, 2, 3, 1))
    assert_close("features", model.vision_tower(pixels), golden["features"], 1e-3)
    assert_close("embeds", model.encode_pixels(pixels), golden["embeds"], 1e-3)


def test_it_has_the_tensors_of_a_published_conversion(made, reference: Path):
    _, out = made
    ours = mx.load(str(out / "model.safetensors"))
    theirs = mx.load(str(reference / "mlx-community-mini" / "model.safetensors"))
    assert isinstance(ours, dict) and isinstance(theirs, dict)

    def encoder(tensors) -> dict[str, tuple]:
        return {n: a.shape for n, a in tensors.items() if n.startswith("vision_tower")}

    assert encoder(ours) == encoder(theirs)


@pytest.mark.skipif(PYTHON is None, reason="FASTVLM_MLX_VLM_PYTHON names no Python")
def test_mlx_vlm_gives_our_logits(made, tmp_path: Path):
    assert PYTHON is not None
    source, out = made
    golden = source / "golden.npz"
    script = TESTS / "support" / "mlx_vlm_logits.py"
    result = tmp_path / "logits.npy"
    done = subprocess.run(
        [PYTHON, script, out, golden, result], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    wanted = np.load(golden)["logits_last"].ravel()
    assert_close("logits", np.load(result), wanted, 1e-3)


def test_the_config_serves_swift_too():
    # The CodingKeys of mlx-swift-lm's FastVLM.swift, none of them optional.
    values = build_vision_config(VisionConfig(), 1024)
    assert set(values) - {"model_type"} == {
        "cls_ratio",
        "down_patch_size",
        "down_stride",
        "downsamples",
        "embed_dims",
        "hidden_size",
        "image_size",
        "intermediate_size",
        "layer_scale_init_value",
        "layers",
        "mlp_ratios",
        "num_classes",
        "patch_size",
        "pos_embs_shapes",
        "projection_dim",
        "repmixer_kernel_size",
        "token_mixers",
    }
    assert values["layers"] == [2, 12, 24, 4, 2] and values["mlp_ratios"] == [4] * 5
    assert values["pos_embs_shapes"] == [None] * 3 + [[7, 7]] * 2


def test_quantized_and_cast(reference: Path, tmp_path: Path):
    report = to_mlx_vlm.export(
        reference / "llava-mini", tmp_path / "x", q_bits=4, q_group_size=32
    )
    config = json.loads((report.out / "config.json").read_text())
    assert config["quantization"] == {"group_size": 32, "bits": 4}
    assert (config["image_token_index"], config["mm_hidden_size"]) == (-200, 128)
    tensors = mx.load(str(report.out / "model.safetensors"))
    assert isinstance(tensors, dict)
    kinds = {array.dtype for array in tensors.values()}
    assert kinds == {mx.bfloat16, mx.uint32}
    assert f"builds encoders of depths {RELEASED.depths} only" in report.warnings[0]


def test_refusals(reference: Path, tmp_path: Path):
    source = reference / "mlx-community-mini-4bit"
    with pytest.raises(OptionError, match="^--q-bits 4: the checkpoint is quantized"):
        to_mlx_vlm.export(source, tmp_path / "x", q_bits=4)
    with pytest.raises(OptionError, match="^--dtype int8: unknown; use float32"):
        to_mlx_vlm.export(source, tmp_path / "x", dtype="int8")
    assert not list(tmp_path.iterdir())


def test_encoders_that_mlx_vlm_cannot_express():
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"downsample_se_dims": (0, 0, 0, 0, 8)}, "squeeze-excite in its downsampl"),
        ({"layer_norm": False}, "BatchNorm in its attention"),
        ({"multi_scale": "avgpool", "multi_scale_stages": (1,)}, "multi-scale"),
        ({"head_dim": 64}, "heads of another width"),
    )
    for fields, what in cases:
        with pytest.raises(CheckpointError, match=f"its encoder has no {what}"):
            to_mlx_vlm._check_encoder(VisionConfig(**fields))


def test_a_bias_that_is_not_a_norms_is_refused():
    tensors = {
        "vision_tower.b.token_mixer.qkv.weight": mx.eye(12)[:, :4],
        "vision_tower.b.token_mixer.qkv.bias": mx.ones((12,)),
    }
    with pytest.raises(CheckpointError, match="has a bias on qkv .1 of it not from"):
        to_mlx_vlm._norm_and_qkv(tensors, "b", "n")
