"""What this machine can do at most in each arithmetic, and the least time of a stage.

Products: float32 through our BLAS and through torch, whichever is faster; bfloat16
through our kernels and torch, where the processor has instructions for it, else as
float32, since widened numbers are multiplied then. Memory: reading with all cores.
"""

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx import device
from fastvlm_mlx.app.bench import roofline
from fastvlm_mlx.app.bench.roofline import Speed
from fastvlm_mlx.model.config import ModelConfig

# Bytes of a number between layers, and of a weight (of 4 bits: as ours reports).
ITEMSIZE = {"float32": 4, "bfloat16": 2, "4bit": 2}
_READ = 256 << 20  # bytes a core, far beyond any cache


def measure() -> dict[str, float]:
    """FLOP/s of products by the arithmetic, and `bytes` a second of memory, on MLX's
    default device."""
    speed = roofline.measure(mx.float32)
    read = reading_speed() if device.on_cpu() else 0.0
    found = {"float32": speed.flops, "bytes": max(speed.bytes, read)}
    rounded = roofline.bfloat16_flops()
    return found | ({"bfloat16": rounded} if rounded else {})


def reading_speed(size: int = _READ, times: int = 5) -> float:
    """Bytes a second that all cores together read; the fastest of some tries."""
    cores = os.cpu_count() or 1
    parts = [np.ones(size, np.uint8) for _ in range(cores)]
    best = float("inf")
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(times):
            started = time.perf_counter()
            # Of NumPy's reductions the one with the least work for a byte. It holds no
            # lock, so the cores work at once.
            list(pool.map(np.maximum.reduce, parts))
            best = min(best, time.perf_counter() - started)
    return sum(part.nbytes for part in parts) / best


def speed(arithmetic: str, measured: Mapping[str, float]) -> Speed:
    """The machine's limits in one arithmetic.

    Args:
        measured: FLOP/s of `float32` and `bfloat16` products, `bytes` a second.
    """
    flops = measured["float32"]
    if arithmetic != "float32":
        flops = max(flops, measured.get("bfloat16", 0.0))
    return Speed(arithmetic, flops, measured["bytes"])


def fastest(many: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The best of several measurements: a limit is what was reached once."""
    keys = {key for each in many for key in each}
    return {key: max(each.get(key, 0.0) for each in many) for key in sorted(keys)}


def least(
    config: ModelConfig,
    arithmetic: str,
    measured: Mapping[str, float],
    resolution: int,
    prompt_tokens: int,
    weight_itemsize: float = 0,
) -> dict[str, Any]:
    """The least seconds to a first token and of each next one; bytes that one reads.

    Args:
        weight_itemsize: bytes of a weight of the language model, scales included; by
            default those of the arithmetic.
    """
    limit = speed(arithmetic, measured)
    work = roofline.stages(
        config,
        resolution,
        prompt_tokens,
        ITEMSIZE[arithmetic],
        weight_itemsize=weight_itemsize,
    )
    first = sum(limit.seconds(work[name]) for name in ("encode", "project", "prefill"))
    step = work["decode_token"]
    return {"ttft": first, "token": limit.seconds(step), "token_bytes": step.bytes}
