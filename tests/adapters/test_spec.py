"""AdapterSpec and adapter_config.json: what is read, written and refused."""

from typing import Any

import pytest

from fastvlm_mlx.adapters.spec import ALL_KEYS, AdapterSpec
from fastvlm_mlx.errors import AdapterError

SPECS = (
    AdapterSpec(),
    AdapterSpec("dora", rank=4, scale=20.0, dropout=0.1, num_layers=2),
    AdapterSpec(keys=("self_attn.q_proj", "mlp.down_proj")),
    AdapterSpec("full", num_layers=3),
)


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_written_is_read_again(spec: AdapterSpec):
    assert AdapterSpec.from_config(spec.to_config()) == spec


def test_a_config_of_mlx_lm():
    """The keys that matter of what `mlx_lm.lora` writes, and some that do not."""
    config = {
        "batch_size": 4,
        "fine_tune_type": "lora",
        "lora_parameters": {"rank": 8, "dropout": 0.0, "scale": 20.0},
        "num_layers": 16,
        "optimizer": "adam",
    }
    assert AdapterSpec.from_config(config) == AdapterSpec(
        rank=8, scale=20.0, keys=ALL_KEYS, num_layers=16
    )


@pytest.mark.parametrize("layers", [0, -1, -4])
def test_no_number_of_layers_is_all_of_them_as_in_mlx_lm(layers: int):
    config = AdapterSpec().to_config() | {"num_layers": layers}
    assert AdapterSpec.from_config(config).num_layers == -1


LORA: dict[str, Any] = AdapterSpec().to_config()["lora_parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fine_tune_type": "ia3"}, "fine_tune_type is 'ia3'; it must be one of lora"),
        ({"num_layers": "all"}, "num_layers is 'all'; it must be -1 or"),
        ({"lora_parameters": None}, "lora_parameters is None, not an object"),
        ({"lora_parameters": {"rank": 8}}, "lora_parameters has no scale"),
        ({"lora_parameters": {"scale": 8}}, "lora_parameters has no rank"),
        ({"lora_parameters": LORA | {"rank": 0}}, "rank is 0; it must be a whole"),
        ({"lora_parameters": LORA | {"rank": True}}, "rank is True; it must be a wh"),
        ({"lora_parameters": LORA | {"rank": 1 << 40}}, "whole number from 1 to 16384"),
        ({"lora_parameters": LORA | {"scale": "2"}}, "scale is '2'; it must be a num"),
        ({"lora_parameters": LORA | {"scale": float("nan")}}, "scale is nan"),
        ({"lora_parameters": LORA | {"dropout": 1.0}}, "dropout is 1.0; it must be"),
        ({"lora_parameters": LORA | {"dropout": -0.1}}, "dropout is -0.1"),
        ({"lora_parameters": LORA | {"keys": "q_proj"}}, "keys is 'q_proj'; it must"),
        ({"lora_parameters": LORA | {"keys": []}}, r"keys is \(\); it must be"),
        (
            {"lora_parameters": LORA | {"keys": ["self_attn.qkv_proj"]}},
            "keys is 'self_attn.qkv_proj'; it must be one of self_attn.q_proj",
        ),
        (
            {"lora_parameters": LORA | {"keys": [["mlp"]]}},
            r"keys is \['mlp'\]; it must be one of",
        ),
    ],
)
def test_a_config_is_refused_by_name(changes: dict[str, Any], message: str):
    with pytest.raises(AdapterError, match=message):
        AdapterSpec.from_config(AdapterSpec().to_config() | changes)
