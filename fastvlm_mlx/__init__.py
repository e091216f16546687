"""Apple's FastVLM on Apple silicon, in MLX.

    from fastvlm_mlx import load

    model = load("demo")
    print(model.ask("image.png", "What is in the image?"))

Names are resolved on first use, so `import fastvlm_mlx` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

from fastvlm_mlx._version import __version__

if TYPE_CHECKING:
    from fastvlm_mlx.conversation.conversation import Conversation
    from fastvlm_mlx.errors import FastVLMError
    from fastvlm_mlx.fastvlm import FastVLM, load
    from fastvlm_mlx.generation.stream import Chunk

_HOMES = {
    "Chunk": "generation.stream",
    "Conversation": "conversation.conversation",
    "FastVLM": "fastvlm",
    "FastVLMError": "errors",
    "load": "fastvlm",
}

__all__ = [
    "Chunk",
    "Conversation",
    "FastVLM",
    "FastVLMError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastvlm_mlx' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"fastvlm_mlx.{_HOMES[name]}"), name)
