"""An adapter is put only on the model it was trained on."""

from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.adapters.base import BaseRecord
from fastvlm_mlx.adapters.layers import add_layers
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.errors import AdapterError
from fastvlm_mlx.model import parameters
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.weights.quantization import quantized
from tests.support.mock_model import TEXT, MockModel, config
from tests.support.small_adapters import flat

SOURCE = {"name": "mini"}


def other_weights(model: FastVLMModel, change: float) -> FastVLMModel:
    """The same sizes, each weight changed by this share of its spread."""
    flat_weights = flat(model)
    model.load_weights(
        [
            (name, array + change * 0.4 * mx.random.normal(array.shape))
            for name, array in flat_weights.items()
        ]
    )
    return model


def test_it_survives_json_and_an_adapters_layers():
    model = MockModel(source=SOURCE)
    record = BaseRecord.of(model)
    assert BaseRecord.from_dict(record.to_dict()) == record
    add_layers(model, AdapterSpec("dora"))
    assert BaseRecord.of(model) == record
    record.check_fits(BaseRecord.of(model), "flags")


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_another_dtype_is_the_same_model(dtype: mx.Dtype):
    record = BaseRecord.of(MockModel())
    model = MockModel()
    model.set_dtype(dtype)
    record.check_fits(BaseRecord.of(model), "flags")


@pytest.mark.parametrize("stays_quantized", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_is_the_same_model(
    bits: int, stays_quantized: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(parameters, "on_cpu", lambda: not stays_quantized)
    settings = {"group_size": 32, "bits": bits}
    model = FastVLMModel(config(quantization=settings))
    tensors = quantized(flat(MockModel()), bits, 32)
    parameters.assign(model, tensors, mx.float32)
    record, other = BaseRecord.of(MockModel()), BaseRecord.of(model)
    assert other.quantized
    record.check_fits(BaseRecord.of(model), "flags")
    other.check_fits(BaseRecord.of(MockModel()), "flags")


def test_a_model_of_other_sizes_is_refused_by_name():
    record = BaseRecord.of(MockModel(source={"name": "large"}))
    text = replace(TEXT, vocab_size=1700)
    message = (
        r"flags: is an adapter of large \(vocab_size 1600\), not of mini \(vocab_size"
        r" 1700\); give the model it was trained on"
    )
    with pytest.raises(AdapterError, match=message):
        record.check_fits(BaseRecord.of(MockModel(text=text, source=SOURCE)), "flags")


def test_the_same_sizes_and_other_weights_are_refused_by_name():
    record = BaseRecord.of(MockModel(source={"name": "large"}))
    for change in (0.05, 1.0):
        other = other_weights(MockModel(source=SOURCE), change)
        with pytest.raises(AdapterError, match="adapter of large, whose weights diff"):
            record.check_fits(BaseRecord.of(other), "flags")


def test_a_model_without_a_language_model():
    with pytest.raises(AdapterError, match="has no language model"):
        BaseRecord.of(FastVLMModel(config(text=None, projector=None)))


def test_one_model_in_several_layouts_and_another_of_its_sizes(reference: Path):
    record = BaseRecord.of(load(reference / "llava-mini"))
    for layout in ("mlx-community-mini", "mlx-community-mini-4bit"):
        record.check_fits(BaseRecord.of(load(reference / layout)), "flags")
    other = BaseRecord.of(load(reference / "hf-mini"))
    assert other.sizes == record.sizes
    with pytest.raises(AdapterError, match="of llava-mini, whose weights differ from"):
        record.check_fits(other, "flags")
