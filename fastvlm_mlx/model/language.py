"""The language model: mlx-lm's Qwen2 or Llama.

mlx-lm's package `__init__` imports transformers, which takes seconds and which we do
not use. Its model files do not need it, so they are imported below empty parent
packages and then removed from `sys.modules`: a later `import mlx_lm` gets the whole
package.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from threading import RLock
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from fastvlm_mlx.cpu import decoder
from fastvlm_mlx.cpu.mlx_lm_patch import use_cpu_kernels
from fastvlm_mlx.device import check_not_forked
from fastvlm_mlx.errors import CheckpointError, quoted
from fastvlm_mlx.model.rows_cache import LayerCaches, rows_cache
from fastvlm_mlx.model.text_config import TextConfig

_lock = RLock()
_ours: dict[str, ModuleType] = {}


def mlx_lm_module(name: str) -> ModuleType:
    """The module `mlx_lm.{name}`, without running `mlx_lm/__init__`."""
    full = f"mlx_lm.{name}"
    with _lock:
        if full not in _ours and "mlx_lm" in sys.modules:
            return importlib.import_module(full)
        if full not in _ours:
            sys.modules.update(_ours or _bare_packages())
            try:
                importlib.import_module(full)
            finally:
                for loaded in list(sys.modules):  # other threads may import meanwhile
                    if loaded.split(".")[0] == "mlx_lm":
                        _ours[loaded] = sys.modules.pop(loaded)
        return _ours[full]


def _bare_packages() -> dict[str, ModuleType]:
    """`mlx_lm` and `mlx_lm.tuner`, empty: both `__init__`s import transformers."""
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError("No module named 'mlx_lm'; pip install mlx-lm")
    parent, tuner = ModuleType("mlx_lm"), ModuleType("mlx_lm.tuner")
    parent.__path__ = list(spec.submodule_search_locations)
    parent.__spec__ = spec
    tuner.__path__ = [os.path.join(path, "tuner") for path in parent.__path__]
    return {parent.__name__: parent, tuner.__name__: tuner}


def build(config: TextConfig) -> nn.Module:
    """An mlx-lm model of `config`'s sizes, its weights not yet loaded.

    It is called with token ids (B, L), or with `input_embeddings` (B, L, hidden) and
    any ids, and a `cache`; it gives logits (B, L, vocab).

    Raises:
        CheckpointError: mlx-lm refuses a value, as of `rope_scaling`.
    """
    module = mlx_lm_module(f"models.{config.model_type}")
    if _ours.get(module.__name__) is module:
        use_cpu_kernels(module)
    try:
        return module.Model(module.ModelArgs.from_dict(config.to_dict()))
    # What mlx-lm's constructors raise for impossible values, as of rope_scaling.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as fault:
        raise CheckpointError(
            f"config.json: mlx-lm cannot build this {config.model_type}"
            f" ({quoted(fault)})"
        ) from fault


def make_cache(model: Any) -> list[Any]:
    """mlx-lm's empty KV caches for the layers of `build`'s model."""
    return mlx_lm_module("models.cache").make_prompt_cache(model)


def join_caches(model: Any, rows: Sequence[LayerCaches]) -> LayerCaches:
    """The caches of several rows as one for `model`; each goes on growing in place."""
    module = _ours.get(type(model).__module__)
    patched = module is not None and module.Model is type(model)
    return rows_cache(rows, padded=not patched)


def hidden(model: Any, embeddings: mx.array, cache: Any = None) -> mx.array:
    """The last layer's states, normalized: (B, L, hidden) to (B, L, hidden)."""
    check_not_forked()
    states = decoder.hidden(model.model, embeddings, cache)
    if states is not None:
        return states
    # mlx-lm requires ids; it ignores them when input_embeddings is given.
    ids = mx.zeros(embeddings.shape[:2], dtype=mx.int32)
    return model.model(ids, cache, input_embeddings=embeddings)


def head(model: Any, states: mx.array) -> mx.array:
    """The next token's logits: (..., hidden) to (..., vocab)."""
    if "lm_head" in model:
        return model.lm_head(states)
    return model.model.embed_tokens.as_linear(states)


def head_parameters(model: Any) -> Iterable[mx.array]:
    """The arrays that `head` multiplies with."""
    layer = model.lm_head if "lm_head" in model else model.model.embed_tokens
    return layer.values()
