"""The roofline of this machine: the least time of each stage; predictions for chips.

A stage can take no less than its FLOPs at the machine's speed of matrix products, and
no less than its bytes at the speed of memory. Both speeds are measured here, so a
stage's share of the limit says how much is left to gain. For chips that are not at
hand the same arithmetic with published speeds gives predictions, named as such.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app.bench.flops import Work, encoder, prefill, projector

if TYPE_CHECKING:
    import mlx.core as mx

    from fastvlm_mlx.model.config import ModelConfig

# Share of the peak that good matrix products reach on Apple's GPUs.
SHORTEST_STEP = 1e-3  # seconds a token
EFFICIENCY = 0.7


@dataclass(frozen=True)
class Speed:
    """What a machine can do: FLOP/s of matrix products, bytes/s of memory."""

    name: str
    flops: float
    bytes: float

    def seconds(self, work: Work) -> float:
        """The least time `work` takes."""
        return max(work.flops / self.flops, work.bytes / self.bytes)


# GPU peaks in 16 bit (ALUs x 2 x clock) and memory bandwidth, both as published.
CHIPS = (
    Speed("M1 (8-core GPU)", 2.6e12, 68e9),
    Speed("M1 Max (32)", 10.4e12, 400e9),
    Speed("M2 (10)", 3.6e12, 100e9),
    Speed("M3 (10)", 3.5e12, 100e9),
    Speed("M4 (10)", 4.3e12, 120e9),
    Speed("M4 Pro (20)", 8.5e12, 273e9),
    Speed("M4 Max (40)", 17e12, 546e9),
    # Apple: more than four times the M4's peak, by the matrix units in each core.
    Speed("M5 (10)", 17e12, 153e9),
)


def measure(
    dtype: "mx.Dtype",
    clock: Callable[[], float] = time.perf_counter,
    *,
    rounded: bool = False,
) -> Speed:
    """This machine's own limits with MLX's default device; takes about a second.

    Args:
        clock: times the products; memory's speed is always the wall clock's.
        rounded: whether weights are bfloat16 in memory, so that products in bfloat16
            count where they are used.
    """
    import mlx.core as mx
    import numpy as np

    from fastvlm_mlx.cpu import openblas

    openblas.bind()
    on_cpu = mx.default_device().type == mx.cpu
    size = 1024 if on_cpu else 4096
    a, b = mx.random.normal((2, size, size)).astype(dtype)
    mx.eval(a, b)
    product = _best(lambda: mx.eval(a @ b), clock)
    if on_cpu:
        # MLX's own copy runs on one core and into fresh memory; NumPy's at least
        # into memory that is there.
        source = np.ones(16 << 20, dtype=np.float32)
        target = np.empty_like(source)
        moved, copied = 2 * source.nbytes, _best(lambda: np.copyto(target, source))
    else:
        array = mx.ones((128 << 20,), dtype=dtype)
        mx.eval(array)
        moved, copied = 2 * array.nbytes, _best(lambda: mx.eval(array + 1))
    flops = 2 * size**3 / product
    if rounded:
        flops = max(flops, bfloat16_flops(clock))
    return Speed("this machine", flops, moved / copied)


def bfloat16_flops(clock: Callable[[], float] = time.perf_counter) -> float:
    """FLOP/s of the CPU kernels' products in bfloat16; 0 where they are not used."""
    import mlx.core as mx

    from fastvlm_mlx.cpu import kernels

    if kernels.bfloat16_form() != "native":
        return 0.0
    # So many rows that packing the weight hardly counts, nor does making the output.
    rows, dim, out_dim = 2048, 2048, 1024
    x = mx.random.normal((rows, dim))
    weight = mx.random.normal((out_dim, dim)).astype(mx.bfloat16)
    mx.eval(x, weight)
    seconds = _best(lambda: kernels.linear_bfloat16(x, weight, None), clock)
    return 2 * rows * dim * out_dim / seconds


def _best(
    call: Callable[[], Any],
    clock: Callable[[], float] = time.perf_counter,
    times: int = 5,
) -> float:
    """The shortest of some runs: a limit is what was reached once."""
    seconds = []
    for _ in range(times + 1):
        started = clock()
        call()
        seconds.append(clock() - started)
    return min(seconds)


def stages(
    config: "ModelConfig",
    resolution: int,
    prompt_tokens: int,
    itemsize: int,
    *,
    cached: int = 0,
    images: int = 1,
    weight_itemsize: float = 0,
) -> dict[str, Work]:
    """The work of every stage that a roofline applies to.

    `prompt_tokens` is the whole prompt, `cached` of which the KV cache holds already;
    `images` counts the overview and the tiles. `decode_token` is one decode step.
    `weight_itemsize` is of the language model's weights if they are quantized.
    """
    work = {}
    if config.vision and config.projector:
        tokens = images * config.vision.tokens(resolution)
        work["encode"] = encoder(config.vision, resolution, itemsize) * images
        work["project"] = projector(config.projector, tokens, itemsize)
        if config.text:
            seen = prefill(
                config.text, tokens, itemsize, weight_itemsize=weight_itemsize
            )
            work["paper_ttft"] = work["encode"] + work["project"] + seen
    if config.text:
        for name, tokens, before in (
            ("prefill", prompt_tokens - cached, cached),
            ("decode_token", 1, prompt_tokens),
        ):
            work[name] = prefill(
                config.text,
                tokens,
                itemsize,
                cached=before,
                weight_itemsize=weight_itemsize,
            )
    return work


def limits(
    work: dict[str, Work], speed: Speed, measured: dict[str, float]
) -> dict[str, dict[str, float | None]]:
    """Each stage's work, least time, and the share of the limit that was reached."""
    return {
        name: {
            **asdict(stage),
            "seconds": speed.seconds(stage),
            "fraction": speed.seconds(stage) / measured[name]
            if measured.get(name)
            else None,
        }
        for name, stage in work.items()
    }


def predictions(work: dict[str, Work]) -> list[dict[str, Any]]:
    """What GPUs of M1 to M5 class should need, in seconds: never a measurement.

    A chip that would decode a token in less than `SHORTEST_STEP` is left out: there
    the time to launch kernels rules, which a roofline does not count.
    """
    found = []
    for chip in CHIPS:
        real = Speed(chip.name, EFFICIENCY * chip.flops, chip.bytes)
        seconds = {name: real.seconds(stage) for name, stage in work.items()}
        parts = [seconds[n] for n in ("encode", "project", "prefill") if n in seconds]
        step = seconds.get("decode_token")
        if step is not None and step < SHORTEST_STEP:
            continue
        found.append(
            {
                "chip": chip.name,
                **{name: value for name, value in seconds.items()},
                "ttft": sum(parts),
                "generation_tps": 1 / step if step else None,
            }
        )
    return found
