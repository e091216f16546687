"""`mx.compile` on and off: on a CPU it calls g++ for each fused kernel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

_states = ["MLX_DISABLE_COMPILE" not in os.environ]


@contextmanager
def compiling(on: bool) -> Iterator[None]:
    """`mx.compile` compiles within this block, or does nothing; then as before."""
    _states.append(on)
    _apply()
    try:
        yield
    finally:
        _states.pop()
        _apply()


def _apply() -> None:
    (mx.enable_compile if _states[-1] else mx.disable_compile)()
