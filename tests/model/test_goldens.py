"""Small checkpoints against what PyTorch made of them (`golden/make_goldens.py`)."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.convert import to_mlx
from tests.support import checkpoints
from tests.support.assert_close import assert_close
from tests.support.paths import GOLDEN
from tests.support.small_tokenizers import write_vicuna

LIMIT = 1e-3


def read(name: str) -> tuple[checkpoints.Tensors, Any]:
    """The checkpoint's tensors, and everything else by name."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        rest = dict(file)
    values, tensors, start = rest.pop("values"), {}, 0
    for key, shape in json.loads(rest.pop("index").tobytes()):
        end = start + int(np.prod(shape))
        tensors[key] = mx.array(values[start:end].reshape(shape))
        start = end
    assert start == values.size
    return tensors, rest


def pixels(small: np.ndarray) -> mx.array:
    """(1, 8 * side, 8 * side, 3) in 0..1."""
    large = small.repeat(8, axis=0).repeat(8, axis=1)
    return mx.array(large[None].astype(np.float32) / 255)


def converted(folder: Path, tensors: checkpoints.Tensors, config: dict | None = None):
    source = folder / "source"
    source.mkdir()
    checkpoints.save(source, tensors)
    if config is not None:
        (source / "config.json").write_text(json.dumps(config))
    if config and "num_hidden_layers" in config:
        write_vicuna(source)
    to_mlx.convert(source, folder / "out")
    return load(folder / "out", dtype="float32")


def test_four_stages_with_squeeze_excite_and_batch_norm(tmp_path: Path):
    tensors, golden = read("mci")
    model = converted(tmp_path, tensors)
    assert model.vision_tower is not None
    features = model.vision_tower(pixels(golden["image"]))
    assert_close("features", features, golden["features"], LIMIT)


@pytest.mark.parametrize("kind", ["dwconv", "avgpool"])
def test_multi_scale_features(kind: str, tmp_path: Path):
    tensors, golden = read("multi_scale")
    if kind == "avgpool":
        tensors = {n: a for n, a in tensors.items() if "multi_scale" not in n}
    stages = golden["stages"].tolist()
    config = {"mm_multi_scale": kind, "mm_multi_scale_stages": stages}
    model = converted(tmp_path, tensors, config)
    assert model.vision_tower is not None
    features = model.vision_tower(pixels(golden["image"]))
    assert_close(kind, features, golden[kind], LIMIT)


def test_a_vicuna_of_llava(tmp_path: Path):
    tensors, golden = read("vicuna")
    config = {
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "mm_vision_tower": "mobileclip_l_128",
        "mm_projector_type": "mlp2x_gelu",
    }
    model = converted(tmp_path, tensors, config)
    assert model.config.template == "vicuna"
    assert model.config.context_length == 2048
    visual = model.encode_pixels(pixels(golden["image"]))
    assert_close("embeds", visual, golden["embeds"], LIMIT)
    before, after = (golden[f"ids_{side}"].tolist() for side in ("before", "after"))
    embeddings = model.embed([before, visual[0], after])
    ids = mx.zeros(embeddings.shape[:2], dtype=mx.int32)
    logits = model.language_model(ids, input_embeddings=embeddings)
    assert_close("logits", logits, golden["logits"], LIMIT)
