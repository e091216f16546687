"""Adapters on the demo model: beside its weights, merged into them, and shared."""

import gc
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx import FastVLM, load
from fastvlm_mlx.adapters.apply import attach, with_adapter
from fastvlm_mlx.adapters.files import Adapter, write_adapter
from fastvlm_mlx.adapters.layers import add_layers
from fastvlm_mlx.adapters.merge import merge
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.errors import AdapterError
from tests.support.mock_model import MockModel
from tests.support.paths import ROOT
from tests.support.small_adapters import flat, make_adapter

IMAGE = ROOT / "examples" / "number.png"
QUESTION = "Describe the image."

SPECS = {
    "lora": AdapterSpec(rank=4, scale=1.5),
    "dora": AdapterSpec("dora", rank=4, scale=1.5),
    "some layers": AdapterSpec(rank=4, num_layers=2, keys=("self_attn.v_proj",)),
    "full": AdapterSpec("full"),
    "full of some layers": AdapterSpec("full", num_layers=2),
    "projector": AdapterSpec(rank=4, projector=True),
}
# Large enough that the answer changes, small enough that it stays one.
SIZES = {"some layers": 0.5, "full": 0.4, "full of some layers": 0.8}


@pytest.fixture(scope="module")
def demo() -> FastVLM:
    """Stays as it is: tests make second models of it."""
    return load("demo")


@pytest.fixture(scope="module")
def plain(demo: FastVLM) -> str:
    return ask(demo)


def adapter_of(model: FastVLM, name: str) -> Adapter:
    return make_adapter(model, SPECS[name], SIZES.get(name, 0.12))


def ask(model: FastVLM) -> str:
    return model.ask(QUESTION, IMAGE, max_tokens=8)


@pytest.mark.parametrize("name", SPECS)
def test_merged_and_beside_give_the_same_tokens(demo: FastVLM, plain: str, name: str):
    adapter = adapter_of(demo, name)
    changed = ask(with_adapter(demo, adapter))
    assert changed != plain
    merged = load("demo")
    names = set(flat(merged))
    merge(merged, adapter)
    merged.feature_cache = demo.feature_cache.scoped(images=name != "projector")
    assert ask(merged) == changed
    assert ask(demo) == plain
    assert set(flat(merged)) == names
    assert merged.projector_is_tuned == (name == "projector")


@pytest.mark.parametrize("name", ["lora", "dora", "projector"])
def test_a_second_model_shares_every_weight(demo: FastVLM, name: str):
    adapter = adapter_of(demo, name)
    mx.eval(demo.parameters())
    gc.collect()  # models of other tests, freed meanwhile, would count as less taken
    before = mx.get_active_memory()
    second = with_adapter(demo, adapter)
    taken = mx.get_active_memory() - before
    assert 0 <= taken < 2 * adapter.nbytes + (64 << 10)
    assert taken < sum(array.nbytes for array in flat(demo).values()) / 3
    assert set(flat(demo)) < set(flat(load("demo"))) | set(flat(second))


def test_features_of_images_are_shared(demo: FastVLM, monkeypatch: pytest.MonkeyPatch):
    demo.feature_cache.clear()
    second = with_adapter(demo, adapter_of(demo, "lora"))
    third = with_adapter(demo, adapter_of(demo, "projector"))
    ask(demo)
    with monkeypatch.context() as patch:
        patch.setattr(FastVLM, "encode_pixels", None)
        assert ask(second)
    encode, encoded = FastVLM.encode_pixels, []

    def counted(self: FastVLM, pixels: object) -> mx.array:
        encoded.append(self)
        return encode(self, pixels)

    monkeypatch.setattr(FastVLM, "encode_pixels", counted)
    ask(third)
    assert encoded == [third]


def test_prefixes_are_not_shared(demo: FastVLM):
    """The same prompt twice: the second answer starts from a saved prefix."""
    second = with_adapter(demo, adapter_of(demo, "lora"))
    answers = [ask(model) for model in (demo, second, demo, second)]
    assert answers[:2] == answers[2:]
    assert answers[0] != answers[1]


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
@pytest.mark.parametrize("name", ["lora", "dora", "full", "projector"])
def test_the_adapter_takes_the_models_dtype(name: str, dtype: mx.Dtype):
    model = MockModel()
    adapter = make_adapter(model, SPECS[name])
    model.set_dtype(dtype)
    attach(model, adapter)
    assert {array.dtype for array in flat(model.language_model).values()} == {dtype}
    assert model.language_model(mx.array([[1, 2]])).dtype == dtype
    assert model.project(mx.zeros((1, 4, 32), dtype)).dtype == dtype


def test_load_reads_an_adapter(demo: FastVLM, tmp_path: Path):
    adapter = adapter_of(demo, "projector")
    write_adapter(tmp_path / "flags", adapter)
    model = load("demo", adapter=tmp_path / "flags")
    assert ask(model) == ask(with_adapter(demo, adapter))


def test_load_refuses_an_adapter_before_it_loads_a_model(tmp_path: Path):
    with pytest.raises(AdapterError, match="nothing: no such folder"):
        load(tmp_path / "no-model", adapter=tmp_path / "nothing")


def test_an_adapter_of_another_model_is_refused_by_name(demo: FastVLM, tmp_path: Path):
    folder = tmp_path / "other"
    write_adapter(
        folder, make_adapter(MockModel(source={"name": "mini"}), SPECS["lora"])
    )
    message = r"other: is an adapter of mini \(hidden_size 32\), not of fastvlm-demo"
    with pytest.raises(AdapterError, match=message):
        load("demo", adapter=folder)


@pytest.mark.parametrize("name", ["lora", "projector"])
def test_what_does_not_fit_leaves_the_model_as_it_was(name: str):
    model = MockModel()
    adapter = make_adapter(model, SPECS[name])
    adapter.tensors.pop(max(adapter.tensors))
    before = flat(model)
    for put in (attach, with_adapter, merge):
        with pytest.raises(AdapterError, match="is missing"):
            put(model, adapter)
    after = flat(model)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_an_adapter_is_not_merged_into_a_quantized_model():
    adapter = make_adapter(MockModel(), SPECS["lora"])
    model = MockModel(quantization={"group_size": 32, "bits": 4})
    with pytest.raises(AdapterError, match="cannot be merged into a quantized model"):
        merge(model, adapter)


def test_a_second_adapter_is_refused():
    model = MockModel()
    adapter = make_adapter(model, SPECS["dora"])
    attach(model, adapter)
    with pytest.raises(AdapterError, match="has an adapter already"):
        attach(model, adapter)


def test_no_layer_is_left_in_training():
    model = MockModel()
    add_layers(model, AdapterSpec())
    assert not any(module.training for module in model.modules())
