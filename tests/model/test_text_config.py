"""TextConfig: what `from_dict` reads, `to_dict` writes again, and one `head_dim`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.text_config import TextConfig
from tests.support.mock_model import TEXT

DEMO = Path(__file__).parents[2] / "fastvlm_mlx/demo/config.json"
VALUES: dict[str, Any] = {
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def test_the_config_of_a_converted_folder_is_written_again_byte_by_byte():
    text = DEMO.read_text()
    config = ModelConfig.from_dict(json.loads(text))
    assert json.dumps(config.to_dict(), indent=2) == text.rstrip("\n")


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"head_dim": 16},  # the default, but stated
        {"head_dim": 32, "attention_bias": False, "mlp_bias": True},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    ],
)
def test_nothing_is_lost_and_the_order_stays(more):
    values = VALUES | more
    written = TextConfig.from_dict(values).to_dict()
    assert list(written.items()) == list(values.items())


def test_head_dim():
    assert TextConfig.from_dict(VALUES).head_dim == 16
    assert TextConfig.from_dict(VALUES | {"head_dim": None}).head_dim == 16
    assert TextConfig.from_dict(VALUES | {"head_dim": 24}).head_dim == 24
    # Three heads do not divide 64; a stated head_dim makes them possible.
    odd = VALUES | {"num_attention_heads": 3, "num_key_value_heads": 1}
    assert TextConfig.from_dict(odd | {"head_dim": 8}).head_dim == 8
    with pytest.raises(CheckpointError, match="do not divide"):
        TextConfig.from_dict(odd)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": None}, "vocab_size is None"),
        ({"model_type": "mistral"}, "'mistral' is unknown; use one of qwen2, llama"),
        ({"rope_traditional": "false"}, "rope_traditional is 'false'"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', not an object"),
        ({"head_dim": True}, "head_dim is True"),
    ],
)
def test_refused(values, message):
    with pytest.raises(CheckpointError, match=message):
        TextConfig.from_dict(VALUES | values)


def test_context_size():
    for length, positions, size in ((100, 200, 100), (100, 50, 50), (100, None, 100)):
        text = replace(TEXT, max_position_embeddings=positions)
        assert ModelConfig(text=text, context_length=length).context_size == size
    assert ModelConfig(context_length=100).context_size == 100
