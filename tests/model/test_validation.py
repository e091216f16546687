"""Bad config.json: one line that says what is wrong and what to do, nothing written."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.errors import FastVLMError
from tests.support import encoders
from tests.support.damaged_files import (
    DEEP,
    Case,
    assert_refused,
    config,
    drop,
    file,
    remove,
    tensors,
    without,
    write_sound,
)
from tests.support.encoders import Encoder

JSON = r"config\.json: not valid JSON \(.*\); download the file again"
RIGHT = "get the right config.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_sound(tmp_path_factory.mktemp("sound"))


CASES: dict[str, Case] = {
    # config.json
    "config empty": ("llava", file("config.json", b""), "config.json: is empty; dow"),
    "config binary": (
        "llava",
        file("config.json", b"\x00\xff\xfe" * 40),
        "config.json: is UTF-16 or UTF-32 text; save it as UTF-8",
    ),
    "config a list": (
        "llava",
        file("config.json", b"[]"),
        "holds a list, not an object",
    ),
    "config too deep": ("llava", file("config.json", DEEP), JSON),
    "config with a huge number": (
        "llava",
        file("config.json", b'{"hidden_size":' + b"9" * 9999 + b"}"),
        JSON,
    ),
    "config a folder": (
        "llava",
        lambda f: (remove("config.json")(f), (f / "config.json").mkdir()),
        "config.json: is a folder, not a file",
    ),
    "hidden_size NaN": (
        "llava",
        config(hidden_size=float("nan")),
        "hidden_size is nan",
    ),
    "hidden_size negative": ("llava", config(hidden_size=-64), "hidden_size is -64"),
    "hidden_size a string": ("llava", config(hidden_size="32"), "hidden_size is '32'"),
    "hidden_size enormous": ("llava", config(hidden_size=10**15), RIGHT),
    "hidden_size missing": ("llava", without("hidden_size"), "hidden_size is None"),
    "eps zero": ("llava", config(rms_norm_eps=0), "rms_norm_eps is 0 where"),
    "rope_theta true": ("llava", config(rope_theta=True), "rope_theta is True"),
    "attention_bias a string": (
        "llava",
        config(attention_bias="false"),
        "attention_bias is 'false' where true or false is needed",
    ),
    "mlp_bias a string": (
        "llava",
        config(mlp_bias="true"),
        "mlp_bias is 'true' where true or false is needed",
    ),
    "rope_scaling nonsense": (
        "llava",
        config(rope_scaling={"type": "spiral"}),
        "rope_scaling|mlx-lm cannot build",
    ),
    "rope_scaling a string": (
        "llava",
        config(rope_scaling="x"),
        "rope_scaling|cannot build",
    ),
    "layers contradict": (
        "llava",
        config(num_hidden_layers=3),
        "num_hidden_layers is 3, but the checkpoint holds 2",
    ),
    "vocabulary contradicts": (
        "llava",
        config(vocab_size=999),
        "vocab_size is 999, but the checkpoint holds 1600",
    ),
    "heads do not divide": ("llava", config(num_attention_heads=3), "do not divide"),
    "heads contradict": ("llava", config(num_key_value_heads=2), "has shape"),
    "too many heads": ("llava", config(num_attention_heads=10**9), RIGHT),
    "another model_type": (
        "llava",
        config(model_type="llava_mistral"),
        "model_type 'llava_mistral' is not a FastVLM's",
    ),
    "model_type a list": ("llava", config(model_type=7), "model_type 7 is not"),
    "unknown projector": (
        "llava",
        config(mm_projector_type="resampler"),
        "mm_projector_type 'resampler' is unknown; use linear",
    ),
    "projector contradicts": (
        "llava",
        config(mm_projector_type="linear"),
        "is linear, but the checkpoint's projector has 2 layers",
    ),
    "image size odd": (
        "llava",
        config(mm_vision_tower="mobileclip_l_1000"),
        "images of 1000 pixels, where a multiple of 64",
    ),
    "image size a string": ("llava", config(image_size="big"), "of 'big' pixels"),
    "image_seq_length no square": (
        "llava",
        config(image_seq_length=5, mm_vision_tower=""),
        "image_seq_length is 5, which is no square",
    ),
    "pinpoints nonsense": (
        "llava",
        config(image_grid_pinpoints="__import__('os')"),
        "image_grid_pinpoints is .*; give pairs",
    ),
    "multi-scale without tensors": (
        "llava",
        config(mm_multi_scale="dwconv", mm_multi_scale_stages=[1]),
        "multi_scale.1.weight is missing",
    ),
    "multi-scale of an unknown stage": (
        "llava",
        config(mm_multi_scale="avgpool", mm_multi_scale_stages=[7]),
        r"mm_multi_scale_stages\[0\] is 7",
    ),
    "multi-scale of an unknown kind": (
        "llava",
        config(mm_multi_scale="fpn", mm_multi_scale_stages=[1]),
        "mm_multi_scale 'fpn' is unknown; use one of avgpool, dwconv",
    ),
    "multi-scale stages a number": (
        "llava",
        config(mm_multi_scale="avgpool", mm_multi_scale_stages=3),
        "mm_multi_scale_stages is 3; give a list",
    ),
    "multi-scale wider than the projector": (
        "llava",
        config(mm_multi_scale="avgpool", mm_multi_scale_stages=[3]),
        "features are 160 wide, but the projector takes 128",
    ),
    # Quantization
    "no settings": ("quantized", without("quantization"), "no quantization settings"),
    "wrong bits": (
        "quantized",
        config(quantization={"group_size": 32, "bits": 8}),
        RIGHT,
    ),
    "wrong bits and groups": (
        "quantized",
        config(quantization={"group_size": 64, "bits": 4}),
        RIGHT,
    ),
    "impossible bits": (
        "quantized",
        config(quantization={"group_size": 32, "bits": 7}),
        RIGHT,
    ),
    "bits a list": (
        "quantized",
        config(quantization={"group_size": 32, "bits": [4]}),
        RIGHT,
    ),
    "settings a list": ("quantized", config(quantization=[4]), "not an object"),
    "mxfp4": (
        "quantized",
        config(quantization={"group_size": 32, "bits": 4, "mode": "mxfp4"}),
        "mode 'mxfp4' is not supported; get",
    ),
    "no biases": (
        "quantized",
        tensors(drop("language_model.model.embed_tokens.biases")),
        "embed_tokens.biases is missing",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_config(name: str, sound: dict[str, Path], tmp_path: Path):
    assert_refused(CASES[name], sound, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int8"}, "^--dtype int8: unknown; use float32, float16, bfloat16$"),
        ({"q_bits": 3}, "^--q-bits 3: use 4 or 8$"),
        ({"q_bits": 4, "q_group_size": 7}, "^--q-group-size 7: use 32, 64, 128$"),
        ({"q_group_size": 64}, "^--q-group-size 64: needs --q-bits 4 or 8$"),
        ({"q_bits": 4}, "^--q-group-size 64: does not divide .* 32; use 32$"),
    ],
)
def test_impossible_options(
    options: dict[str, Any], message: str, sound: dict[str, Path], tmp_path: Path
):
    with pytest.raises(FastVLMError, match=message):
        to_mlx.convert(sound["llava"], tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_quantized(sound: dict[str, Path], tmp_path: Path):
    with pytest.raises(FastVLMError, match="^--q-bits 4: the checkpoint is quantized"):
        to_mlx.convert(sound["quantized"], tmp_path / "out", q_bits=4)
    bare = tmp_path / "bare.safetensors"
    mx.save_safetensors(str(bare), encoders.to_mlx(encoders.build(Encoder())))
    with pytest.raises(FastVLMError, match="^--q-bits 4: only the language model"):
        to_mlx.convert(bare, tmp_path / "out", q_bits=4)
    assert not (tmp_path / "out").exists()
