"""The statistics of one answer: lines for `--stats`, a record for `--json`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.files.disk_space import format_size

if TYPE_CHECKING:
    from fastvlm_mlx.generation.stream import Chunk

EMPTY_ANSWER = "note: the answer is empty; ask in other words, or about an image"


def lines(last: "Chunk") -> list[str]:
    """What `--stats` and `/stats` show, from the last chunk of an answer."""
    stages = ", ".join(
        f"{name.replace('_', ' ')} {value:.3f}" for name, value in _stages(last).items()
    )
    return [
        f"time to first token: {last.ttft:.3f} s" + (f" ({stages})" if stages else ""),
        f"prompt: {last.prompt_tokens} tokens, {last.visual_tokens} of them visual, "
        f"{last.cached_tokens} cached",
        f"answer: {last.generation_tokens} tokens, {last.generation_tps:.1f} per"
        f" second, ended by {last.finish_reason}",
        f"peak memory: {format_size(last.peak_memory)}",
    ]


def record(last: "Chunk") -> dict[str, Any]:
    """What `--json` says about an answer; times in seconds, memory in bytes."""
    return {
        "finish_reason": last.finish_reason,
        "prompt_tokens": last.prompt_tokens,
        "prompt_tps": last.prompt_tps,
        "visual_tokens": last.visual_tokens,
        "cached_tokens": last.cached_tokens,
        "generation_tokens": last.generation_tokens,
        "ttft": last.ttft,
        "timings": _stages(last),
        "generation_tps": last.generation_tps,
        "peak_memory": last.peak_memory,
    }


def _stages(last: "Chunk") -> dict[str, float]:
    # Stages that were not timed apart (MLX is lazy) are None: left out.
    stages = asdict(last.timings).items()
    return {name: seconds for name, seconds in stages if seconds is not None}
