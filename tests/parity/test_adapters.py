"""Adapters of PEFT in MLX and ours in PEFT: the same logits, both ways."""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.adapters.apply import attach
from fastvlm_mlx.adapters.files import read_adapter, write_adapter
from fastvlm_mlx.adapters.merge import merge
from fastvlm_mlx.adapters.spec import ALL_KEYS, AdapterSpec
from tests.support.mock_model import TEXT, MockModel
from tests.support.small_adapters import flat, make_adapter
from tests.support.torch_qwen2 import qwen2_config

pytestmark = pytest.mark.parity

IDS = [[1, 5, 9, 700, 44]]

SPECS = (
    AdapterSpec(rank=3, scale=1.5),
    AdapterSpec("dora", rank=3, scale=1.5),
    AdapterSpec(rank=3, scale=0.7, num_layers=1, keys=("mlp.down_proj",)),
)


def their_model() -> Any:
    """transformers' Qwen2 with the weights of MockModel."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    model = transformers.Qwen2ForCausalLM(qwen2_config(TEXT))
    weights = {
        name: torch.from_numpy(np.array(array))
        for name, array in flat(MockModel().language_model).items()
    }
    missing, surplus = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not surplus
    return model.eval()


def their_logits(model: Any) -> np.ndarray:
    import torch

    return model(torch.tensor(IDS)).logits.detach().numpy()


def assert_same(ours: mx.array, theirs: np.ndarray) -> None:
    error = float(np.abs(np.array(ours) - theirs).max() / np.abs(theirs).max())
    assert error < 1e-4, error


def assert_ours_agree(folder: Path, theirs: np.ndarray) -> None:
    beside, merged = MockModel(), MockModel()
    plain = np.array(beside.language_model(mx.array(IDS)))
    assert np.abs(plain - theirs).max() > 0.1  # the adapter changes something
    attach(beside, read_adapter(folder))
    merge(merged, read_adapter(folder))
    for model in (beside, merged):
        assert_same(model.language_model(mx.array(IDS)), theirs)


def test_the_models_agree_without_an_adapter():
    theirs = their_logits(their_model())
    assert_same(MockModel().language_model(mx.array(IDS)), theirs)


@pytest.mark.filterwarnings("ignore")  # PEFT's, of what it leaves out
@pytest.mark.parametrize("spec", SPECS)
def test_ours_in_peft(spec: AdapterSpec, tmp_path: Path):
    peft = pytest.importorskip("peft")
    write_adapter(tmp_path / "a", make_adapter(MockModel(), spec), format="peft")
    model = peft.PeftModel.from_pretrained(their_model(), str(tmp_path / "a")).eval()
    assert_ours_agree(tmp_path / "a", their_logits(model))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "up_proj"]},
        {"target_modules": "all-linear"},
        {"layers_to_transform": [1], "layers_pattern": "layers"},
    ],
)
def test_pefts_in_mlx(options: dict[str, Any], tmp_path: Path):
    import torch

    peft = pytest.importorskip("peft")
    names = [key.partition(".")[2] for key in ALL_KEYS]
    values = {"r": 4, "lora_alpha": 6, "target_modules": names, **options}
    config = peft.LoraConfig(task_type="CAUSAL_LM", **values)
    torch.manual_seed(0)
    model = peft.get_peft_model(their_model(), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5)
        elif "magnitude" in name:
            parameter.data.mul_(1.3)
    model.save_pretrained(str(tmp_path / "a"))
    assert_ours_agree(tmp_path / "a", their_logits(model))
