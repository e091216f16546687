"""How the language model is built, and quantized layers in the form of a GPU."""

import importlib.util
import sys
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from fastvlm_mlx.model import language, parameters
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.weights.quantization import quantized
from tests.support.mock_model import TEXT, MockModel, config


def test_our_mlx_lm_uses_the_cpu_kernels():
    module = language.mlx_lm_module("models.qwen2")
    language.build(TEXT)
    if language._ours.get(module.__name__) is module:
        assert module.swiglu.__module__ == "fastvlm_mlx.cpu.mlx_lm_patch"
        patched = module.swiglu
        language.build(TEXT)
        assert module.swiglu is patched  # once


def test_another_thread_imports_while_mlx_lm_is_loaded(monkeypatch):
    class Name(str):
        """The name of a module; another module is imported when it is looked at."""

        def split(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
            sys.modules["imported_meanwhile"] = sys
            return super().split(sep, maxsplit)

    for name in [name for name in sys.modules if name.startswith("mlx_lm")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(language, "_ours", {})
    monkeypatch.setitem(sys.modules, Name("looked_at"), sys)
    try:
        assert language.mlx_lm_module("models.base").__name__ == "mlx_lm.models.base"
    finally:
        sys.modules.pop("imported_meanwhile", None)
    assert not [name for name in sys.modules if name.startswith("mlx_lm")]


def test_mlx_lm_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install mlx-lm"):
        language._bare_packages()


def test_the_order_of_the_files_keys_is_not_shown():
    assert "given" not in repr(TEXT)


def test_only_quantized_layers_are_given_that_form(monkeypatch):
    """What a GPU computes with: packed language model, plain encoder and projector."""
    monkeypatch.setattr(parameters, "on_cpu", lambda: False)
    source = MockModel()
    from mlx.utils import tree_flatten

    flat: list[tuple[str, mx.array]] = tree_flatten(source.parameters())  # type: ignore
    settings = {"group_size": 32, "bits": 8}
    model = FastVLMModel(config(quantization=settings))
    parameters.assign(model, quantized(dict(flat), 8, 32), mx.float32)
    kinds = {name: type(layer) for name, layer in model.named_modules()}
    packed = {name for name, kind in kinds.items() if "Quantized" in kind.__name__}
    assert packed and all(name.startswith("language_model.") for name in packed)
    assert "language_model.model.embed_tokens" in packed
    assert kinds["projector.layers.0"] is nn.Linear
    ids = mx.array([[1, 5, 9]])
    given = model.language_model(ids)
    wanted = source.language_model(ids)
    error = float(mx.abs(given - wanted).mean() / mx.abs(wanted).mean())
    assert error < 0.1
