"""Patches mlx-lm's model files: our CPU kernels on Linux, and rows of any length.

mlx-lm's model files look up `swiglu` and `scaled_dot_product_attention` by name in
their own module. Our private instance of such a module (`language.py`) gets versions
of both that use `cpu/kernels.py` where it pays, and else do what mlx-lm does. The
attention of a `RowsCache` (`model/rows_cache.py`) is that of each of its rows.
"""

from types import ModuleType
from typing import Any

import mlx.core as mx

from fastvlm_mlx import device
from fastvlm_mlx.cpu import kernels


def use_cpu_kernels(module: ModuleType) -> None:
    """Replaces both functions in an mlx-lm model file's module that is ours alone."""
    if module.swiglu.__module__ == __name__:
        return
    swiglu, attention = module.swiglu, module.scaled_dot_product_attention

    def quick_swiglu(gate: mx.array, up: mx.array) -> mx.array:
        if device.on_gpu():
            return swiglu(gate, up)
        if gate.shape[1] > 1 and kernels.usable(gate, up):
            return kernels.swiglu(gate, up)
        # mlx-lm compiles this: on a CPU a second of g++ before the first token.
        return gate * mx.sigmoid(gate) * up

    def quick_attention(
        q: mx.array, k: Any, v: Any, cache: Any, scale: float, mask: Any, **rest: Any
    ) -> mx.array:
        if getattr(cache, "rows_apart", False):
            rows = [
                quick_attention(q[i : i + 1], *row, cache=own, scale=scale, mask=mask)
                for i, (own, *row) in enumerate(cache.fetched)
            ]
            return mx.concatenate(rows)
        # A quantized cache gives tuples; one position is not worth a kernel.
        several = isinstance(k, mx.array) and q.shape[0] == 1 and q.shape[2] > 1
        if several and mask == "causal" and not rest and kernels.usable(q, k, v):
            return kernels.causal_attention(q, k, v)
        return attention(q, k, v, cache=cache, scale=scale, mask=mask, **rest)

    vars(module).update(
        swiglu=quick_swiglu, scaled_dot_product_attention=quick_attention
    )
