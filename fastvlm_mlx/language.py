"""The language model: mlx-lm's own Qwen2 or Llama, by the config, never a copy.

mlx-lm's package `__init__` imports transformers, which takes seconds and which we do
not use. Its model files need none of that, so they are imported with an empty parent
package in place, which is taken away again: a later `import mlx_lm` is the real one.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from types import ModuleType
from typing import Any

import mlx.nn as nn

from fastvlm_mlx.config import TEXT_MODELS
from fastvlm_mlx.errors import CheckpointError

_importing = RLock()


@contextmanager
def _bare_parent() -> Iterator[None]:
    with _importing:
        if "mlx_lm" in sys.modules:
            yield
            return
        spec = importlib.util.find_spec("mlx_lm")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("No module named 'mlx_lm'; pip install mlx-lm")
        parent = ModuleType("mlx_lm")
        parent.__path__ = list(spec.submodule_search_locations)
        parent.__spec__ = spec
        sys.modules["mlx_lm"] = parent
        try:
            yield
        finally:
            del sys.modules["mlx_lm"]


def mlx_lm_module(name: str) -> ModuleType:
    """The module `mlx_lm.{name}`, without running `mlx_lm/__init__`."""
    full = f"mlx_lm.{name}"
    if full not in sys.modules:
        with _bare_parent():
            return importlib.import_module(full)
    return sys.modules[full]


def build(config: dict[str, Any]) -> nn.Module:
    """An mlx-lm model of `config`'s sizes, its weights not yet loaded.

    It is called with token ids (B, L), or with `input_embeddings` (B, L, hidden) and
    any ids, and a `cache`; it gives logits (B, L, vocab).

    Raises:
        CheckpointError: a `model_type` other than qwen2 and llama, or sizes that
            do not fit each other.
    """
    model_type = config.get("model_type")
    if model_type not in TEXT_MODELS:
        raise CheckpointError(
            f"config.json: language model {model_type!r} is not supported;"
            f" use one of {', '.join(TEXT_MODELS)}"
        )
    module = mlx_lm_module(f"models.{model_type}")
    try:
        return module.Model(module.ModelArgs.from_dict(config))
    except (TypeError, ValueError, ZeroDivisionError) as fault:
        raise CheckpointError(
            f"config.json: mlx-lm cannot build this {model_type} ({fault})"
        ) from fault
