"""Config values at their limits: the last that is taken, the first that is refused."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.config import ModelConfig, ProjectorConfig
from fastvlm_mlx.model.text_config import TextConfig
from fastvlm_mlx.model.validation import (
    check_bool,
    check_choice,
    check_count,
    check_counts,
    check_number,
)
from fastvlm_mlx.model.vision_config import VisionConfig
from tests.support.mock_model import TEXT

WIDEST = 1 << 20
VISION = VisionConfig(
    depths=(1,) * 5,
    embed_dims=(4, 8, 16, 32, 64),
    mlp_dims=(8,) * 5,
    out_dim=64,
    out_se_dim=4,
)


@pytest.mark.parametrize("value", [2, 3, 5])
def test_counts_in_their_range(value):
    check_count("x", value, 2, 5)
    check_counts("x", (2, value, 5), 2, 5)


@pytest.mark.parametrize("value", [1, 6, -3, 3.0, True, "3", None])
def test_counts_out_of_their_range(value):
    with pytest.raises(CheckpointError, match="^config.json: x is .* from 2 to 5 is"):
        check_count("x", value, 2, 5)
    with pytest.raises(CheckpointError, match=r"x\[1\] is .* from 2 to 5 is needed"):
        check_counts("x", (3, value), 2, 5)


def test_counts_by_default():
    for check, wrap in ((check_count, int), (check_counts, lambda v: (v,))):
        check("x", wrap(1))
        check("x", wrap(WIDEST))
        for value in (0, WIDEST + 1):
            with pytest.raises(CheckpointError, match="from 1 to 1048576 is needed"):
                check("x", wrap(value))
    with pytest.raises(CheckpointError, match="where a list is needed"):
        check_counts("x", 3)
    check_counts("x", ())


def test_numbers():
    for value in (5e-324, 0.5, 1, 1.0):
        check_number("x", value, 1)
    check_number("x", 1e300)
    for value in (0, 0.0, -1, 1.0000001, 2, float("nan"), True, "1", None):
        with pytest.raises(CheckpointError, match="where a number above 0 is needed"):
            check_number("x", value, 1)
    for value in (1.1e300, float("inf")):
        with pytest.raises(CheckpointError):
            check_number("x", value)


def test_booleans_and_choices():
    check_bool("x", True)
    check_bool("x", False)
    for value in (0, 1, "false", None):
        with pytest.raises(CheckpointError, match="true or false is needed"):
            check_bool("x", value)
    check_choice("x", "b", ("a", "b"))
    for value in ("c", "", 1, None, ["a"]):
        with pytest.raises(CheckpointError, match="is unknown; use one of a, b$"):
            check_choice("x", value, ("a", "b"))


def five(value: Any) -> tuple[Any, ...]:
    return (VISION.depths[0],) * 4 + (value,)


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("depths", [five(1), five(1000)], [five(0), five(1001), (1,) * 4, (1,) * 6]),
        ("mlp_dims", [five(1), five(WIDEST)], [five(0), five(WIDEST + 1), (8,) * 4]),
        (
            "pos_emb_kernels",
            [(0, 0, 0, 1, 63)],
            [(0, 0, 0, 1, 64), (0, 0, 0, 1, 65), (0, 0, 0, 1, 2), (0, 0, 0, -1, 1)],
        ),
        (
            "downsample_se_dims",
            [(0, 0, 0, 0, WIDEST)],
            [(0, 0, 0, 0, WIDEST + 1), (0, 0, 0, 0, -1), (0, 0, 0, 0)],
        ),
        ("downsample_kernel", [1, 63], [0, 2, 62, 64, 65]),
        ("repmixer_kernel", [1, 63], [0, 2, 62, 64, 65]),
        ("ffn_kernel", [1, 63], [0, 2, 62, 64, 65]),
        ("head_dim", [1, 32], [0, 3, 64]),
        ("out_dim", [64, WIDEST], [0, 32, 63, 96, WIDEST * 2]),
        ("out_se_dim", [1, WIDEST], [0, WIDEST + 1]),
        ("layer_norm_eps", [1e-9, 1], [0, 1.1]),
        ("layer_norm", [True, False], [0, None]),
        ("embed_dims", [(4, 4, 8, 32, 64)], [(4, 6, 8, 32, 64), (0, 8, 16, 32, 64)]),
        (
            "token_mixers",
            [("repmixer",) * 5, ("repmixer",) * 4 + ("attention",)],
            [("repmixer",) * 4, ("repmixer",) * 4 + ("mamba",)],
        ),
        ("multi_scale_stages", [()], [(0,)]),
    ],
)
def test_vision(name: str, taken: list[Any], refused: list[Any]):
    for value in taken:
        assert getattr(replace(VISION, **{name: value}), name) == value
    for value in refused:
        with pytest.raises(CheckpointError):
            replace(VISION, **{name: value})


def test_attention_needs_whole_heads_and_mixing_none():
    with pytest.raises(CheckpointError, match="attention is 32 wide, which heads of"):
        replace(VISION, head_dim=64)
    mixing = replace(VISION, token_mixers=("repmixer",) * 5, head_dim=64)
    assert mixing.head_dim == 64


@pytest.mark.parametrize("kind", ["avgpool", "dwconv"])
def test_multi_scale(kind: str):
    for stages in ((0,), (3,), (0, 1, 2, 3), (2, 0)):
        config = replace(VISION, multi_scale=kind, multi_scale_stages=stages)
        widths = [VISION.embed_dims[stage] for stage in stages]
        assert config.feature_dim == 64 + sum(widths)
    for stages in ((), (4,), (-1,), (1, 1), [1]):
        with pytest.raises(CheckpointError, match="mm_multi_scale_stages"):
            replace(VISION, multi_scale=kind, multi_scale_stages=stages)


def stages(count: int) -> VisionConfig:
    return VisionConfig(
        depths=(1,) * count,
        embed_dims=(4,) * count,
        mlp_dims=(8,) * count,
        token_mixers=("repmixer",) * count,
        pos_emb_kernels=(0,) * count,
        downsample_se_dims=(0,) * count,
        out_dim=4,
        out_se_dim=4,
    )


def test_the_number_of_stages():
    assert [stages(count).stride for count in (1, 2, 4, 5, 8)] == [4, 8, 32, 64, 512]
    for count in (0, 9):
        with pytest.raises(CheckpointError, match="number of vision stages is"):
            stages(count)
    assert [VISION.tokens(size) for size in (64, 128, 192, 1024)] == [1, 4, 9, 256]
    assert stages(4).tokens(64) == 4


def test_the_defaults_are_apples_released_encoder():
    assert asdict(VisionConfig()) == {
        "depths": (2, 12, 24, 4, 2),
        "embed_dims": (96, 192, 384, 768, 1536),
        "mlp_dims": (384, 768, 1536, 3072, 6144),
        "token_mixers": (*["repmixer"] * 3, "attention", "attention"),
        "pos_emb_kernels": (0, 0, 0, 7, 7),
        "downsample_se_dims": (0, 0, 0, 0, 0),
        "downsample_kernel": 7,
        "repmixer_kernel": 3,
        "ffn_kernel": 7,
        "layer_norm": True,
        "layer_norm_eps": 1e-5,
        "head_dim": 32,
        "out_dim": 3072,
        "out_se_dim": 192,
        "multi_scale": None,
        "multi_scale_stages": (),
    }
    model = ModelConfig()
    assert (model.image_size, model.fit, model.template) == (1024, "pad", "qwen2")
    assert (model.context_length, model.grid_pinpoints) == (8192, ())
    assert ProjectorConfig() == ProjectorConfig("mlp", (3072, 896, 896))


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("hidden_size", [32, WIDEST], [0, 30, WIDEST + 4]),
        ("intermediate_size", [1, WIDEST], [0, WIDEST + 1]),
        ("num_hidden_layers", [1, 1000], [0, 1001]),
        ("vocab_size", [1, 1 << 24], [0, (1 << 24) + 1]),
        ("num_attention_heads", [2, 4, 16], [0, 1, 3, 64, 4098]),
        ("num_key_value_heads", [1, 2, 4], [0, 3, 8, 4097]),
        ("rms_norm_eps", [1e-9, 1], [0, 1.1]),
        ("rope_theta", [1e-3, 1, 1e300], [0, -1, float("inf")]),
        ("head_dim", [1, 8, 1 << 31], [-1, (1 << 31) + 1]),
        ("max_position_embeddings", [None, 1, 1 << 31], [0, (1 << 31) + 1]),
        ("rope_scaling", [None, {"factor": 2.0}], [[], 2.0]),
        ("tie_word_embeddings", [True, False], [0, None]),
    ],
)
def test_text(name: str, taken: list[Any], refused: list[Any]):
    for value in taken:
        assert getattr(replace(TEXT, **{"head_dim": 0, name: value}), name) == value
    for value in refused:
        with pytest.raises(CheckpointError):
            replace(TEXT, **{"head_dim": 0, name: value})


def test_many_heads():
    most = {"num_attention_heads": 4096, "num_key_value_heads": 4096}
    assert replace(TEXT, hidden_size=8192, head_dim=0, **most).head_dim == 2
    with pytest.raises(CheckpointError, match="num_attention_heads is 8192"):
        replace(TEXT, hidden_size=8192, num_attention_heads=8192)


def test_text_defaults():
    text = TextConfig("qwen2", 32, 1, 64, 4, 2, 1e-6, 100)
    assert (text.rope_theta, text.head_dim) == (10000.0, 8)
    assert text.tie_word_embeddings is True
    assert not (text.rope_traditional or text.attention_bias or text.mlp_bias)


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("image_size", [1, 1 << 16], [0, (1 << 16) + 1]),
        ("context_length", [1, 1 << 31], [0, (1 << 31) + 1]),
        ("fit", ["pad", "crop", "stretch"], ["", "fill"]),
        ("template", ["qwen2", "vicuna"], ["llama"]),
        (
            "grid_pinpoints",
            [((1, 1 << 16),), ((2, 3), (3, 2))],
            [((0, 2),), ((2, (1 << 16) + 1),), ((2,),), ((2, 3, 4),)],
        ),
        ("coreml_encoder", [None, "x.mlpackage"], ["a/x.mlpackage", "x.zip", 7]),
        ("quantization", [None, {"bits": 4}], [[4], 4]),
        ("source", [{}], [[], "x"]),
    ],
)
def test_model(name: str, taken: list[Any], refused: list[Any]):
    for value in taken:
        assert getattr(ModelConfig(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(CheckpointError):
            ModelConfig(**{name: value})


def test_the_image_is_a_multiple_of_the_stride():
    assert ModelConfig(vision=VISION, image_size=64).image_size == 64
    for size in (32, 96, 65):
        with pytest.raises(CheckpointError, match=f"{size} is not a multiple of .* 64"):
            ModelConfig(vision=VISION, image_size=size)


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("identity", [0]), ("linear", [1]), ("mlp", [2, 3, 4])],
)
def test_layers_of_a_projector(kind: str, layers: list[int]):
    for count in range(5):
        dims = (8,) * (count + 1) if count else ()
        if count in layers:
            assert ProjectorConfig(kind, dims).dims == dims
        else:
            with pytest.raises(CheckpointError, match=f"cannot have {count} layers"):
                ProjectorConfig(kind, dims)


def test_the_parts_fit_each_other():
    parts: dict[str, Any] = {"vision": VISION, "image_size": 64, "text": TEXT}
    assert ModelConfig(projector=ProjectorConfig("linear", (64, 32)), **parts)
    assert ModelConfig(projector=ProjectorConfig("mlp", (64, 9, 32)), **parts)
    for dims, message in (
        ((63, 32), "features are 64 wide, but the projector takes 63"),
        ((64, 33), "tokens are 33 wide, but the language model's embeddings 32"),
    ):
        with pytest.raises(CheckpointError, match=message):
            ModelConfig(projector=ProjectorConfig("linear", dims), **parts)
    identity = ProjectorConfig("identity", ())
    with pytest.raises(CheckpointError, match="features are 64 wide, but the language"):
        ModelConfig(projector=identity, **parts)
    wide = replace(TEXT, hidden_size=64)
    assert ModelConfig(projector=identity, **{**parts, "text": wide})
    # Parts that are missing fit everything.
    assert ModelConfig(**parts)
    assert ModelConfig(projector=ProjectorConfig("linear", (5, 32)), text=TEXT)
