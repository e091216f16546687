"""What is converted and exported with an adapter has its change in the weights."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.adapters.files import Adapter, write_adapter
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.convert import llava_files, to_ios, to_mlx, to_mlx_vlm
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.errors import AdapterError
from fastvlm_mlx.fastvlm import FastVLM, load
from fastvlm_mlx.weights.weight_files import load_all_tensors
from tests.support.small_adapters import flat, make_adapter

KEYS = ("self_attn.q_proj", "mlp.down_proj")
SPEC = AdapterSpec(rank=3, scale=1.5, keys=KEYS, num_layers=1, projector=True)


@pytest.fixture(scope="module")
def mini(reference: Path) -> FastVLM:
    with cpu_only():  # in float32, with its biases where they were
        return load(reference / "llava-mini")


@pytest.fixture(scope="module")
def adapter(mini: FastVLM) -> Adapter:
    return make_adapter(mini, SPEC)


def wanted(model: FastVLM, adapter: Adapter) -> dict[str, mx.array]:
    """By the definition, in NumPy's order of things."""
    weights = flat(model)
    last = len(model.language_model.layers) - 1
    for key in KEYS:
        name = f"model.layers.{last}.{key}"
        a, b = (adapter.tensors[f"{name}.{leaf}"] for leaf in ("lora_a", "lora_b"))
        # Not `+=`, which would change the model's own array.
        weight = weights[f"language_model.{name}.weight"]
        weights[f"language_model.{name}.weight"] = weight + SPEC.scale * (a @ b).T
    for name, array in (adapter.projector or {}).items():
        weights[f"projector.{name}"] = array
    return weights


def assert_close(given: dict[str, mx.array], right: dict[str, mx.array]) -> None:
    assert given.keys() == right.keys()
    for name, array in right.items():
        # One step of float16 at most, in which most weights are stored.
        assert mx.allclose(given[name], array, rtol=2e-3, atol=1e-4), name


def test_convert(reference: Path, mini: FastVLM, adapter: Adapter, tmp_path: Path):
    source, out = reference / "llava-mini", tmp_path / "out"
    to_mlx.convert(source, tmp_path / "plain")
    to_mlx.convert(source, out, adapter=adapter)
    given = load_all_tensors(out)
    assert_close(given, wanted(mini, adapter))
    stored = load_all_tensors(tmp_path / "plain")
    assert {n: a.dtype for n, a in given.items()} == {
        n: a.dtype for n, a in stored.items()
    }


def test_what_phones_and_mlx_vlm_read(
    reference: Path, mini: FastVLM, adapter: Adapter, tmp_path: Path
):
    write_adapter(tmp_path / "flags", adapter)
    for target, given in (("ios", adapter), ("mlx-vlm", tmp_path / "flags")):
        source = reference / "llava-mini"
        _, config, tensors = llava_files.read_model(source, target, given)
        assert_close(tensors, wanted(mini, adapter))
    assert config.source["adapter"] == "flags"


def test_a_whole_export_for_phones(
    reference: Path, mini: FastVLM, adapter: Adapter, tmp_path: Path
):
    pytest.importorskip("coremltools")
    out = tmp_path / "phone"
    to_ios.export(reference / "llava-mini", out, q_bits=None, adapter=adapter)
    right = to_ios.rename_for_app(wanted(mini, adapter), mini.config)
    given = load_all_tensors(out)
    embedding = "language_model.model.embed_tokens.weight"
    given[embedding] = given[embedding][: len(right[embedding])]  # rows for <image>
    assert_close(given, right)


@pytest.mark.parametrize(
    "export",
    [
        to_mlx.convert,
        lambda source, out, **options: to_mlx.convert(source, out, q_bits=4, **options),
        to_mlx_vlm.export,
        lambda source, out, **options: llava_files.read_model(source, "ios", **options),
    ],
)
def test_a_quantized_checkpoint_is_refused(
    export: Callable[..., object], reference: Path, adapter: Adapter, tmp_path: Path
):
    source = reference / "mlx-community-mini-4bit"
    with pytest.raises(AdapterError, match="cannot be merged into a quantized model"):
        export(source, tmp_path / "out", adapter=adapter)
    assert not list(tmp_path.iterdir())
