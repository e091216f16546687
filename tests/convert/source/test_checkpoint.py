"""open_checkpoint and the configs: files, archives, quantization, defaults."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.convert.source import checkpoint, model_config
from fastvlm_mlx.convert.source.checkpoint import Checkpoint
from fastvlm_mlx.convert.source.image_config import read_image_config
from fastvlm_mlx.errors import CheckpointError
from tests.support import checkpoints, encoders, mock_model
from tests.support.checkpoints import Spec
from tests.support.encoders import Encoder


def opened(source: Path) -> Checkpoint:
    with checkpoint.open_checkpoint(source) as read:
        mx.eval(read.tensors)
        return read


@pytest.mark.parametrize("shards", [1, 3])
def test_one_file_or_shards(shards: int, tmp_path: Path):
    spec = Spec(shards=shards)
    read = opened(checkpoints.write(tmp_path / "model", spec))
    assert read.name == "model" and read.layout.name == "llava"
    wanted = checkpoints.tensors(spec)["model.norm.weight"]
    assert mx.array_equal(read.tensors["language_model.model.norm.weight"], wanted)
    assert read.size == sum(
        file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors")
    )


def test_a_zip_is_read_as_the_folder_in_it(tmp_path: Path):
    source = checkpoints.write(tmp_path / "llava-mini", Spec())
    archive = tmp_path / "release.ZIP"
    with zipfile.ZipFile(archive, "w") as file:
        for path in source.iterdir():
            file.write(path, f"checkpoints/llava-mini/{path.name}")
    steps: list[tuple[int, int]] = []
    with checkpoint.open_checkpoint(archive, lambda *step: steps.append(step)) as read:
        assert read.name == "release"
        folder = read.folder
        assert mx.array_equal(
            read.tensors["language_model.model.norm.weight"],
            checkpoints.tensors(Spec())["model.norm.weight"],
        )
    assert not folder.exists() and steps[-1][0] == steps[-1][1]
    to_mlx.convert(archive, tmp_path / "out")
    assert load(tmp_path / "out").config.source["name"] == "release"


def test_an_error_inside_a_zip_names_the_zip(tmp_path: Path):
    source = checkpoints.write(tmp_path / "model", Spec())
    (source / "config.json").write_text("{")
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", source)
    with pytest.raises(CheckpointError, match="config.json: not valid") as caught:
        opened(Path(archive))
    assert str(caught.value).startswith(archive)


def test_an_index_decides_which_files_count(tmp_path: Path):
    source = checkpoints.write(tmp_path / "model", Spec(shards=2))
    (source / "adapter.safetensors").write_bytes(b"not ours")
    assert opened(source).layout.name == "llava"


def test_the_model_file_hides_its_neighbours(tmp_path: Path):
    source = checkpoints.write(tmp_path / "model", Spec())
    (source / "adapter_model.safetensors").write_bytes(b"not ours")
    (source / "optimizer.pt").write_bytes(b"not ours")
    assert opened(source).layout.name == "llava"


def test_a_bare_file(tmp_path: Path):
    source = checkpoints.write(tmp_path / "model", Spec(layout="timm"))
    read = opened(source / "model.safetensors")
    assert read.layout.name == "encoder" and read.config == {}


@pytest.mark.parametrize("layer", ["mm_projector.0", "mm_projector.2"])
@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_settings_of_single_layers_go_by_the_checkpoints_names(
    layer: str, key: str, tmp_path: Path
):
    """mlx-vlm quantizes the projector and the encoder's linear layers too, and lists
    those that differ by their names in the checkpoint."""
    spec = Spec(layout="mlx-community", q_bits=4)
    stored = checkpoints.tensors(spec)
    qkv = "vision_tower.vision_model.network.7.0.token_mixer.qkv"
    for name, bits in ((layer, 8), (qkv, 6)):
        stored = checkpoints.quantized(stored, bits, name)
    settings = {
        "group_size": 32,
        "bits": 4,
        layer: {"group_size": 32, "bits": 8},
        qkv: {"bits": 6},
    }
    source = checkpoints.write(tmp_path / "model", spec)
    checkpoints.save(source, stored)
    config = checkpoints.config(spec)
    del config["quantization"]
    (source / "config.json").write_text(json.dumps(config | {key: settings}))

    read = opened(source)
    assert read.quantization is not None
    ours = layer.removeprefix("mm_")
    assert read.quantization[ours] == {"group_size": 32, "bits": 8}
    assert read.quantization["vision_tower.stages.3.blocks.0.token_mixer.qkv"] == {
        "bits": 6
    }
    to_mlx.convert(source, tmp_path / "out")
    model = load(tmp_path / "out", dtype="float32")
    # Both were dequantized: only the language model's settings are kept.
    assert model.config.quantization == {"group_size": 32, "bits": 4}
    index = {"mm_projector.0": 0, "mm_projector.2": 1}[layer]
    assert model.projector is not None
    wanted = checkpoints.tensors(Spec(layout="mlx-community"))[f"{layer}.weight"]
    assert mx.abs(model.projector.layers[index].weight - wanted).max() < 0.01


@pytest.mark.parametrize(
    ("projector", "kind", "dims"),
    [
        ("linear", "linear", (128, 32)),
        ("mlp1x_gelu", "linear", (128, 32)),
        ("mlp2x_gelu", "mlp", (128, 32, 32)),
        ("mlp3x_gelu", "mlp", (128, 32, 32, 32)),
        ("identity", "identity", ()),
    ],
)
def test_projectors(projector: str, kind: str, dims: tuple[int, ...], tmp_path: Path):
    spec = Spec(projector=projector)
    if kind == "identity":
        spec = Spec(projector=projector, hidden=128, heads=4)
    source = checkpoints.write(tmp_path / "model", spec)
    to_mlx.convert(source, tmp_path / "out")
    model = load(tmp_path / "out", dtype="float32")
    assert model.config.projector is not None
    assert (model.config.projector.type, model.config.projector.dims) == (kind, dims)
    assert model.encode_pixels(mx.zeros((1, 128, 128, 3))).shape == (1, 4, spec.hidden)


@pytest.mark.parametrize("told", ["identity", "mlp3x_gelu", "mlp1x_gelu", "linear"])
def test_a_projector_that_contradicts_its_type_is_refused(told: str):
    tensors = {f"projector.{n}.weight": mx.zeros((8, 8)) for n in (0, 2)}
    with pytest.raises(CheckpointError, match=f"is {told}, but the .* has 2 layers"):
        model_config.build_projector(tensors, {"mm_projector_type": told})


SIZES: list[tuple[dict[str, Any], dict[str, Any] | None, int]] = [
    ({"mm_vision_tower": "mobileclip_l_1024"}, None, 1024),
    ({"mm_vision_tower": "mobileclip_l_1536"}, {"crop_size": 512}, 1536),
    ({"image_size": 512, "mm_vision_tower": "mobileclip_l_1024"}, None, 512),
    ({"image_seq_length": 16}, None, 256),
    ({"image_seq_length": 256}, None, 1024),
    ({}, {"crop_size": {"height": 768, "width": 768}}, 768),
    ({}, {"crop_size": 256}, 256),
    ({}, {"size": 9}, 1024),
    ({}, None, 1024),
]


@pytest.mark.parametrize(("config", "preprocessor", "size"), SIZES)
def test_image_size(
    config: dict[str, Any],
    preprocessor: dict[str, Any] | None,
    size: int,
    tmp_path: Path,
):
    if preprocessor is not None:
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps(preprocessor))
    assert read_image_config(config, tmp_path, None)["image_size"] == size


@pytest.mark.parametrize(
    ("told", "found"),
    [
        (None, ()),
        ([[384, 768], [768, 384]], ((384, 768), (768, 384))),
        ("[(384, 768), (768, 384)]", ((384, 768), (768, 384))),
        ([], ()),
    ],
)
def test_pinpoints(told: Any, found: tuple, tmp_path: Path):
    settings = read_image_config({"image_grid_pinpoints": told}, tmp_path, None)
    assert settings["grid_pinpoints"] == found


@pytest.mark.parametrize(
    ("told", "fit"), [("pad", "pad"), ("square", "stretch"), ("anyres", "pad")]
)
def test_fit(told: str, fit: str, tmp_path: Path):
    settings = read_image_config({"image_aspect_ratio": told}, tmp_path, None)
    assert settings["fit"] == fit


@pytest.mark.parametrize(
    ("config", "tokenizer", "text", "length"),
    [
        ({"tokenizer_model_max_length": 8192}, None, 32768, 8192),
        ({}, {"model_max_length": 4096}, 32768, 4096),
        ({}, {"model_max_length": 10**30}, 32768, 32768),
        ({}, {"model_max_length": 1e30}, 2048, 2048),
        ({"tokenizer_model_max_length": True}, {}, None, 32768),
    ],
)
def test_context_length(
    config: dict, tokenizer: dict | None, text: int | None, length: int, tmp_path: Path
):
    if tokenizer is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    known = replace(mock_model.TEXT, max_position_embeddings=text)
    found = model_config.read_context_length(config, tmp_path, known)
    assert found == length


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ({"model_type": "llava_qwen2"}, "qwen2"),
        ({"model_type": "fast_vlm", "text_config": {"model_type": "qwen2"}}, "qwen2"),
        ({"model_type": "fast_vlm"}, "qwen2"),
        ({"model_type": "llava"}, "llama"),
        ({"model_type": "llava_llama"}, "llama"),
        ({"architectures": ["LlavaQwen2ForCausalLM"]}, "qwen2"),
        ({"model_type": "llava", "text_config": {"model_type": "qwen3_moe"}}, None),
        ({"model_type": "llava_mistral"}, None),
        ({"architectures": [7, None]}, None),
        ({}, None),
    ],
)
def test_language_model_kind(config: dict[str, Any], model: str | None):
    if model is not None:
        assert model_config.text_model_type(config) == model
        return
    with pytest.raises(CheckpointError, match="model_type .* is not a FastVLM's"):
        model_config.text_model_type(config)


def test_multi_scale_is_read_from_the_config(tmp_path: Path):
    encoder = Encoder(pooled=(1, 3))
    source = checkpoints.write(tmp_path / "model", Spec(encoder=encoder))
    to_mlx.convert(source, tmp_path / "out")
    model = load(tmp_path / "out", dtype="float32")
    assert model.config.vision is not None
    assert model.config.vision.multi_scale_stages == (1, 3)
    assert model.config.vision.feature_dim == encoder.feature_dim


@pytest.mark.parity
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_pickles_are_read_with_torch(suffix: str, wrapper: str | None, tmp_path: Path):
    torch = pytest.importorskip("torch")
    arrays = encoders.build(Encoder())
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    state["conv_exp.se.reduce.bias"] = state["conv_exp.se.reduce.bias"].bfloat16()
    state["head.proj"] = state["head.proj"].double()
    path = tmp_path / f"encoder{suffix}"
    torch.save({wrapper: state} if wrapper else state, path)
    read = opened(path)
    assert read.tensors["vision_tower.final_conv.se.fc1.bias"].dtype == mx.bfloat16
    wanted = mx.array(arrays["network.0.0.convffn.fc1.weight"])
    found = read.tensors["vision_tower.stages.0.blocks.0.mlp.fc1.weight"]
    assert mx.array_equal(found, wanted)
