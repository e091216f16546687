"""PEFT's format: what we write is read again, and what we cannot honour is named."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx.adapters import peft
from fastvlm_mlx.adapters.files import (
    ADAPTER_FOLDER,
    Adapter,
    read_adapter,
    write_adapter,
)
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.errors import AdapterError, CheckpointError
from tests.support.mock_model import MockModel
from tests.support.small_adapters import make_adapter

SPECS = (
    AdapterSpec(rank=3, scale=1.5, projector=True),
    AdapterSpec("dora", rank=3, dropout=0.25),
    AdapterSpec(rank=3, keys=("self_attn.q_proj", "mlp.up_proj"), num_layers=1),
)


@pytest.mark.parametrize("spec", SPECS)
def test_what_is_written_is_read_again(spec: AdapterSpec, tmp_path: Path):
    adapter = make_adapter(MockModel(), spec)
    write_adapter(tmp_path / "a", adapter, format="peft")
    given = read_adapter(tmp_path / "a")
    assert (given.spec, given.base) == (adapter.spec, adapter.base)
    for a, b in (
        (given.tensors, adapter.tensors),
        (given.projector or {}, adapter.projector or {}),
    ):
        assert a.keys() == b.keys()
        assert all(mx.array_equal(a[name], b[name]) for name in b)
    # Each of our own formats may take the other's place.
    assert ADAPTER_FOLDER.written(tmp_path / "a")
    write_adapter(tmp_path / "a", adapter, overwrite=True)


def test_the_files_are_pefts(tmp_path: Path):
    spec = AdapterSpec("dora", rank=3, scale=1.5, keys=("self_attn.q_proj",))
    write_adapter(tmp_path / "a", make_adapter(MockModel(), spec), format="peft")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"], config["use_dora"]) == (3, 4.5, True)
    assert config["target_modules"] == ["q_proj"]
    tensors = mx.load(str(tmp_path / "a" / "adapter_model.safetensors"))
    assert isinstance(tensors, dict)
    at = "base_model.model.model.layers.1.self_attn.q_proj"
    assert tensors[f"{at}.lora_A.weight"].shape == (3, 32)
    assert tensors[f"{at}.lora_B.weight"].shape == (32, 3)
    assert tensors[f"{at}.lora_magnitude_vector"].shape == (32,)


def theirs(**changes: Any) -> tuple[dict[str, Any], dict[str, mx.array]]:
    """As PEFT writes it."""
    config, tensors = peft.to_peft(SPEC, make_adapter(MockModel(), SPEC).tensors, "m")
    return {**config, **changes}, tensors


SPEC = AdapterSpec(rank=4, scale=2.0)


@pytest.mark.parametrize(
    "prefix",
    [
        "base_model.model.model.layers.",
        "base_model.model.model.language_model.layers.",
        "base_model.model.language_model.model.layers.",
        "base_model.model.layers.",
    ],
)
def test_the_names_of_several_pytorch_models(prefix: str):
    config, tensors = theirs()
    renamed = {
        name.replace("base_model.model.model.layers.", prefix): array
        for name, array in tensors.items()
    }
    spec, given = peft.from_peft(config, renamed)
    assert spec == SPEC
    assert given.keys() == make_adapter(MockModel(), SPEC).tensors.keys()


def test_the_other_options_that_peft_writes_are_read():
    """All of a plain `LoraConfig` of PEFT 0.21.2, beside those of `to_peft`."""
    spec, _ = peft.from_peft(
        *theirs(
            auto_mapping=None,
            peft_version="0.21.2",
            revision=None,
            exclude_modules=None,
            init_lora_weights=True,
            megatron_config=None,
            megatron_core="megatron.core",
            loftq_config={},
            eva_config=None,
            ensure_weight_tying=False,
            qalora_group_size=16,
            use_qalora=False,
            rank_pattern={},
            alpha_pattern={},
            arrow_config=None,
            kasa_config=None,
            runtime_config={"ephemeral_gpu_offload": False},
        )
    )
    assert spec == SPEC


def test_rank_stabilized_lora_has_another_scale():
    spec, _ = peft.from_peft(*theirs(use_rslora=True, lora_alpha=6))
    assert spec.scale == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'; only LORA can be read"),
        ({"bias": "all"}, "bias is 'all', which cannot be honoured; train it without"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is {'q_proj': 8}, which"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern is"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config is {'beta': 0.0001}, which can"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora is"),
        ({"an_option_of_tomorrow": True}, "an_option_of_tomorrow is True, which"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga', which"),
        ({"r": "8"}, "r is '8' and lora_alpha 8, where numbers are needed"),
        ({"lora_alpha": None}, "r is 4 and lora_alpha None"),
    ],
)
def test_what_cannot_be_honoured_is_named(changes: dict[str, Any], message: str):
    with pytest.raises(AdapterError, match=message):
        peft.from_peft(*theirs(**changes))


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.lora_A.weight",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        "base_model.model.model.vision_tower.layers.0.self_attn.q_proj.lora_A.weight",
        "base_model.model.model.layers.0.mlp.experts.lora_A.weight",
    ],
)
def test_tensors_of_other_layers_are_named(name: str):
    config, tensors = theirs()
    with pytest.raises(AdapterError, match=f"{name} is of no linear layer of the lang"):
        peft.from_peft(config, tensors | {name: mx.zeros((4, 32))})


def test_layers_that_are_not_in_a_row():
    config, tensors = theirs()
    moved = {n.replace("layers.1.", "layers.5."): array for n, array in tensors.items()}
    with pytest.raises(AdapterError, match=r"changes layers \[0, 5\], and only the la"):
        peft.from_peft(config, moved)


def test_no_tensors():
    with pytest.raises(AdapterError, match="has no tensors"):
        peft.from_peft(theirs()[0], {})


def test_a_full_fine_tuning_has_no_such_form(tmp_path: Path):
    adapter = make_adapter(MockModel(), AdapterSpec("full"))
    with pytest.raises(AdapterError, match="full fine-tuning is no adapter to PEFT"):
        write_adapter(tmp_path / "a", adapter, format="peft")
    assert not list(tmp_path.iterdir())


def test_a_projector_of_llavas_trainer():
    given = peft.llava_projector(
        {
            "base_model.model.model.mm_projector.0.weight": mx.zeros((2, 3)),
            "model.mm_projector.2.bias": mx.ones(2),
        }
    )
    assert set(given) == {"layers.0.weight", "layers.1.bias"}
    with pytest.raises(AdapterError, match="holds model.norm.weight, which is no proj"):
        peft.llava_projector({"model.norm.weight": mx.zeros(2)})


def written_as_peft(folder: Path) -> Adapter:
    """As PEFT itself writes it, without our note in the weights."""
    adapter = make_adapter(MockModel(), SPEC)
    config, tensors = theirs()
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "adapter_model.safetensors"), tensors)
    return adapter


def test_pefts_own_folder(tmp_path: Path):
    adapter = written_as_peft(tmp_path / "a")
    given = read_adapter(tmp_path / "a")
    assert (given.spec, given.base, given.projector) == (adapter.spec, None, None)
    assert given.tensors.keys() == adapter.tensors.keys()
    assert not ADAPTER_FOLDER.written(tmp_path / "a")


def test_a_folder_without_its_weights(tmp_path: Path):
    written_as_peft(tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match="a: has no adapter_model.safetensors, whic"):
        read_adapter(tmp_path / "a")


def test_a_pickle_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    written_as_peft(tmp_path / "a")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="adapter_model.bin: a pickle needs torc"):
        read_adapter(tmp_path / "a")
