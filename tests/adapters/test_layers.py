"""Putting an adapter's layers into a language model, and its tensors into them."""

import subprocess
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest

from fastvlm_mlx.adapters.layers import (
    adapter_tensors,
    add_layers,
    projector_tensors,
    remove_layers,
    set_projector,
    set_tensors,
)
from fastvlm_mlx.adapters.spec import ALL_KEYS, AdapterSpec
from fastvlm_mlx.errors import AdapterError
from fastvlm_mlx.model import parameters
from fastvlm_mlx.model.config import ProjectorConfig
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.weights.quantization import quantized
from tests.support.mock_model import MockModel, config
from tests.support.small_adapters import flat, make_adapter

IDS = mx.array([[1, 5, 9, 700]])


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_new_layers_change_nothing_and_can_be_removed(method: str):
    model = MockModel()
    before, names = model.language_model(IDS), set(flat(model))
    add_layers(model, AdapterSpec(method, rank=3))
    assert mx.allclose(model.language_model(IDS), before, atol=1e-4)
    assert set(flat(model)) != names
    remove_layers(model)
    assert set(flat(model)) == names
    assert mx.array_equal(model.language_model(IDS), before)


def test_names_and_shapes_are_mlx_lms():
    model, spec = MockModel(), AdapterSpec("dora", rank=3)
    add_layers(model, spec)
    tensors = adapter_tensors(model, spec)
    assert len(tensors) == 2 * len(ALL_KEYS) * 3
    at = "model.layers.1.mlp.down_proj"
    assert tensors[f"{at}.lora_a"].shape == (64, 3)
    assert tensors[f"{at}.lora_b"].shape == (3, 32)
    assert tensors[f"{at}.m"].shape == (32,)


def test_only_the_named_layers_of_the_last_ones():
    model = MockModel()
    spec = AdapterSpec(rank=3, keys=("self_attn.v_proj",), num_layers=1)
    add_layers(model, spec)
    at = "model.layers.1.self_attn.v_proj"
    assert set(adapter_tensors(model, spec)) == {f"{at}.lora_a", f"{at}.lora_b"}


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_the_change_is_scale_times_the_product(method: str):
    model = MockModel()
    spec = AdapterSpec(method, rank=3, scale=1.5, keys=("self_attn.q_proj",))
    adapter = make_adapter(model, spec)
    add_layers(model, spec)
    set_tensors(model, spec, adapter.tensors)
    layer = model.language_model.layers[0].self_attn.q_proj
    weight = layer.linear.weight + 1.5 * (layer.lora_a @ layer.lora_b).T
    if method == "dora":
        weight *= (layer.m / mx.linalg.norm(weight, axis=1))[:, None]
    x = mx.random.normal((2, 32), key=mx.random.key(0))
    assert mx.allclose(layer(x), x @ weight.T + layer.linear.bias, atol=1e-4)


def test_dropout_is_only_of_training():
    model = MockModel()
    spec = AdapterSpec(rank=3, dropout=0.5)
    adapter = make_adapter(model, spec)
    add_layers(model, spec)
    set_tensors(model, spec, adapter.tensors)
    assert mx.array_equal(model.language_model(IDS), model.language_model(IDS))


def test_the_weights_themselves():
    model, spec = MockModel(), AdapterSpec("full")
    add_layers(model, spec)
    tensors = adapter_tensors(model, spec)
    assert set(tensors) == set(flat(model.language_model))
    last = adapter_tensors(model, AdapterSpec("full", num_layers=1))
    assert last and all(name.startswith("model.layers.1.") for name in last)
    before = model.language_model(IDS)
    set_tensors(model, spec, {name: 1.1 * value for name, value in tensors.items()})
    assert not mx.allclose(model.language_model(IDS), before, atol=0.1)


def quantized_model(monkeypatch: pytest.MonkeyPatch) -> FastVLMModel:
    """As on a GPU, where quantized layers stay quantized."""
    monkeypatch.setattr(parameters, "on_cpu", lambda: False)
    model = FastVLMModel(config(quantization={"group_size": 32, "bits": 8}))
    parameters.assign(model, quantized(flat(MockModel()), 8, 32), mx.float32)
    model.eval()
    return model


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_quantized_base(method: str, monkeypatch: pytest.MonkeyPatch):
    model, spec = quantized_model(monkeypatch), AdapterSpec(method, rank=3)
    before = model.language_model(IDS)
    adapter = make_adapter(MockModel(), spec)
    add_layers(model, spec)
    layer = model.language_model.layers[0].self_attn.q_proj
    assert isinstance(layer.linear, nn.QuantizedLinear)
    assert mx.allclose(model.language_model(IDS), before, atol=1e-3)
    set_tensors(model, spec, adapter.tensors)
    assert not mx.allclose(model.language_model(IDS), before, atol=0.1)


def test_a_full_fine_tuning_of_a_quantized_base(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AdapterError, match="quantized; use the float checkpoint"):
        add_layers(quantized_model(monkeypatch), AdapterSpec("full"))


def test_a_second_adapter_is_refused():
    model = MockModel()
    add_layers(model, AdapterSpec())
    with pytest.raises(AdapterError, match="has an adapter already, at q_proj"):
        add_layers(model, AdapterSpec())


def test_more_layers_than_there_are():
    with pytest.raises(AdapterError, match="changes 3 layers, but this model has 2"):
        add_layers(MockModel(), AdapterSpec(num_layers=3))


def test_an_encoder_alone():
    model = FastVLMModel(config(text=None, projector=None))
    with pytest.raises(AdapterError, match="has no language model"):
        add_layers(model, AdapterSpec())


AT = "model.layers.0.mlp.up_proj.lora_a"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(AT), rf"{AT} is missing \(1 such\)"),
        (lambda t: t.update(more=t[AT]), "tensor more is not part of what its config"),
        (
            lambda t: t.update({AT: mx.zeros((32, 4))}),
            rf"{AT} has shape \(32, 4\), but this model needs \(32, 3\)",
        ),
        (
            lambda t: t.update({AT: mx.zeros((32, 3), mx.int32)}),
            f"{AT} is of dtype mlx.core.int32, not of floating point",
        ),
    ],
)
def test_tensors_are_refused_by_name(change, message: str):
    model, spec = MockModel(), AdapterSpec(rank=3)
    tensors = dict(make_adapter(model, spec).tensors)
    change(tensors)
    add_layers(model, spec)
    with pytest.raises(AdapterError, match=message):
        set_tensors(model, spec, tensors)


def test_a_projector():
    model = MockModel()
    adapter = make_adapter(model, AdapterSpec(projector=True))
    assert adapter.projector is not None
    x = mx.random.normal((1, 4, 32), key=mx.random.key(0))
    before = model.project(x)
    set_projector(model, adapter.projector)
    assert not mx.allclose(model.project(x), before, atol=0.1)
    assert mx.array_equal(
        projector_tensors(model)["layers.0.bias"], adapter.projector["layers.0.bias"]
    )
    with pytest.raises(AdapterError, match="layers.0.bias is missing"):
        set_projector(model, {"layers.0.weight": mx.zeros((32, 32))})


def test_a_projector_without_weights():
    model = MockModel(projector=ProjectorConfig("identity", ()))
    with pytest.raises(AdapterError, match="projector has no weights of its own"):
        set_projector(model, {})


def test_no_transformers_and_no_training_code_are_imported():
    """In a process of its own: another test may have imported them."""
    code = (
        "import sys\n"
        "from tests.support.mock_model import MockModel\n"
        "from fastvlm_mlx.adapters.layers import add_layers\n"
        "from fastvlm_mlx.adapters.spec import AdapterSpec\n"
        "for method in ('lora', 'dora'):\n"
        "    add_layers(MockModel(), AdapterSpec(method))\n"
        "loaded = [m for m in sys.modules if m.startswith(('transf', 'mlx_lm'))]\n"
        "assert not loaded, loaded\n"
        "import fastvlm_mlx.model.language as language\n"
        "assert 'mlx_lm.tuner.trainer' not in language._ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
