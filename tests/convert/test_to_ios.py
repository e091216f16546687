"""The folder of `export ios` holds what FastVLM.swift decodes, and nothing else.

The keys below are the `CodingKeys` and `@ModuleInfo` names of apple/ml-fastvlm's
app/FastVLM/FastVLM.swift; optional ones are those it decodes with a default.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer

from fastvlm_mlx.convert import to_ios
from fastvlm_mlx.convert.coreml import mlpackage
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.ios_memory import estimate_memory
from fastvlm_mlx.convert.llava_files import add_embedding_rows
from fastvlm_mlx.convert.to_ios import rename_for_app
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.fastvlm import load
from fastvlm_mlx.model.config import ModelConfig, ProjectorConfig
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.vision_config import VisionConfig

FILES = {
    "config.json",
    "fastvithd.mlpackage",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
REQUIRED = {
    "model_type": str,
    "hidden_size": int,
    "num_hidden_layers": int,
    "intermediate_size": int,
    "num_attention_heads": int,
    "num_key_value_heads": int,
    "vocab_size": int,
    "mm_hidden_size": int,
    "image_token_index": int,
}
LAYER = {
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{p}_proj.{f}" for p in "qkv" for f in ("weight", "bias")),
    "self_attn.o_proj.weight",
    *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")),
}

TEXT = TextConfig(  # the 7B model's
    model_type="qwen2",
    hidden_size=3584,
    num_hidden_layers=28,
    intermediate_size=18944,
    num_attention_heads=28,
    num_key_value_heads=4,
    rms_norm_eps=1e-6,
    vocab_size=152064,
)


@pytest.fixture(scope="module", autouse=True)
def coremltools():
    pytest.importorskip("coremltools")


@pytest.fixture(scope="module")
def made(reference: Path, tmp_path_factory) -> to_ios.IOSReport:
    out = tmp_path_factory.mktemp("ios") / "model"
    return to_ios.export(reference / "llava-mini", out, q_bits=8, q_group_size=32)


def read(report: to_ios.IOSReport, name: str) -> dict:
    return json.loads((report.out / name).read_text())


def test_files(made):
    assert {path.name for path in made.out.iterdir()} == FILES
    assert made.bytes == sum(
        f.stat().st_size for f in made.out.rglob("*") if f.is_file()
    )


def test_an_existing_folder_stays(made, reference):
    before = (made.out / "config.json").stat().st_ino
    with pytest.raises(OptionError, match=": exists already; name another output or"):
        to_ios.export(reference / "llava-mini", made.out)
    assert (made.out / "config.json").stat().st_ino == before


def test_config_decodes(made):
    config = read(made, "config.json")
    for key, kind in REQUIRED.items():
        assert type(config[key]) is kind, key
    assert config["model_type"] == "llava_qwen2"  # the type the app registers
    assert config["mm_hidden_size"] == 128
    assert config["quantization"] == {"group_size": 32, "bits": 8}
    # Given, it would have to hold an mrope_section.
    assert "rope_scaling" not in config
    assert type(config["tie_word_embeddings"]) is bool


def test_processors_decode(made):
    for name in ("preprocessor_config.json", "processor_config.json"):
        config = read(made, name)
        assert config["processor_class"] == "LlavaProcessor"  # what the app registers
        assert config["size"] == {"shortest_edge": 256}
        assert config["crop_size"] == {"height": 256, "width": 256}
        assert (config["image_mean"], config["image_std"]) == ([0.0] * 3, [1.0] * 3)
    assert config["image_token"] == "<image>"
    assert config["patch_size"] == 64


def test_the_image_token_is_a_real_token(made):
    index = read(made, "config.json")["image_token_index"]
    tokenizer = Tokenizer.from_file(str(made.out / "tokenizer.json"))
    assert tokenizer.token_to_id("<image>") == index
    ids = tokenizer.encode("a<image><image>b").ids
    assert ids.count(index) == 2
    table = mx.load(str(made.out / "model.safetensors"))
    assert isinstance(table, dict)
    rows = table["language_model.model.embed_tokens.weight"].shape[0]
    assert index < rows == read(made, "config.json")["vocab_size"]
    added = read(made, "tokenizer_config.json")["added_tokens_decoder"]
    assert added[str(index)]["content"] == "<image>"


def test_tensors_are_the_modules_of_the_app(made, reference: Path):
    tensors = mx.load(str(made.out / "model.safetensors"))
    assert isinstance(tensors, dict)
    names = {"model.embed_tokens.weight", "model.norm.weight"} | {
        f"model.layers.{layer}.{name}" for layer in range(2) for name in LAYER
    }
    names = {f"language_model.{name}" for name in names}
    for name in [n for n in names if tensors[n].dtype == mx.uint32]:
        stem = name.removesuffix("weight")
        names |= {stem + "scales", stem + "biases"}
    projector = {
        f"multi_modal_projector.linear_{i}.{field}"
        for i in (0, 2)
        for field in ("weight", "bias")
    }
    assert set(tensors) == names | projector
    # The projector is never quantized: the app's layers are plain.
    assert all(tensors[name].dtype == mx.float16 for name in projector)
    assert tensors["multi_modal_projector.linear_0.weight"].shape == (64, 128)
    assert tensors["multi_modal_projector.linear_2.weight"].shape == (64, 64)


def test_the_package_is_named_and_shaped_as_the_app_asks(made):
    function = mlpackage.read(made.out / "fastvithd.mlpackage").functions["main"]
    assert [(v.name, v.dtype, v.shape) for v in function.inputs] == [
        ("images", "float32", (1, 3, 256, 256))
    ]
    assert function.outputs == ["image_features"]


def test_the_folder_loads_back_here(made, reference: Path):
    """As one of Apple's own exports; the encoder comes from the checkpoint."""
    model = load(made.out)
    original = load(reference / "llava-mini")
    ids = mx.array([[1, 5, 9, 200]])
    given = model.language_model(ids)[..., :1600]
    wanted = original.language_model(ids)
    correlation = np.corrcoef(np.array(given).ravel(), np.array(wanted).ravel())
    assert correlation[0, 1] > 0.999


def test_what_a_person_must_know_is_said(made):
    assert any("insists on (256, 3072)" in line for line in made.warnings)
    assert any("crops images" in line for line in made.warnings)
    assert str(made.memory).startswith("20")  # 200 MB of app, little else


def test_refusals(reference: Path, tmp_path: Path):
    source = reference / "llava-mini"
    for options, option in (
        (CoreMLOptions(image_input=True), "--image-input"),
        (CoreMLOptions(projector=True), "--projector"),
    ):
        with pytest.raises(OptionError, match=f"^export ios {option}: Apple's app"):
            to_ios.export(source, tmp_path / "x", options)
    with pytest.raises(OptionError, match="^--q-bits 3 --q-group-size 64: use 4 or 8"):
        to_ios.export(source, tmp_path / "x", q_bits=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "projector",
    [
        ProjectorConfig("linear", (3072, 896)),
        ProjectorConfig("mlp", (3072, 1024, 896)),
        ProjectorConfig("mlp", (3072, 896, 896, 896)),
    ],
)
def test_projectors_that_the_app_has_not(projector: ProjectorConfig):
    config = ModelConfig(
        vision=VisionConfig(),
        projector=projector,
        text=replace(TEXT, hidden_size=896),
    )
    message = re.escape("has a projector of two layers as wide as the language model")
    with pytest.raises(CheckpointError, match=message):
        rename_for_app({}, config)


def test_rows_are_added_where_the_vocabulary_is_full():
    name = "language_model.model.embed_tokens.weight"
    tensors = {
        name: mx.ones((64, 8)),
        "language_model.lm_head.weight": mx.ones((64, 8)),
    }
    assert add_embedding_rows(tensors, 64)[name].shape == (64, 8)
    grown = add_embedding_rows(tensors, 65)
    assert {array.shape for array in grown.values()} == {(128, 8)}
    assert float(mx.abs(grown[name][64:]).max()) == 0


def test_memory_of_the_released_sizes():
    config = ModelConfig(
        vision=VisionConfig(),
        projector=ProjectorConfig("mlp", (3072, 3584, 3584)),
        text=TEXT,
    )
    small = estimate_memory(config, 500_000_000, 246_000_000, 1024)
    # the first stage's (384, 256, 256) maps, twice; 64 x 64 positions never attend
    assert small.activations == 2 * 2 * 384 * 256 * 256
    assert small.cache == 2 * 2 * 28 * 512 * (256 + 512)
    assert small.warnings() == []
    large = estimate_memory(config, 8_100_000_000, 246_000_000, 1024)
    lines = large.warnings()
    assert lines[1].startswith(
        "4 GB (iPhone 12, 13): 8.7 GB is above the 2.6 GB an app"
    )
    assert len(lines) == 5
    # The 0.5B in float16 fits by the estimate, and was ended on phones all the same.
    reported = estimate_memory(config, 990_000_000, 246_000_000, 1024).warnings()
    assert len(reported) == 1 and "ml-fastvlm issues 8, 23, 24" in reported[0]
    assert lines[0].startswith("a language model of 8.1 GB")
