"""The protocol between `benchmarks.peers` and a runtime: one line of JSON each way.

Each runtime runs in an environment of its own: this module and the runtimes import at
the top only what every environment has.
"""

import json
import os
import sys
import time
from typing import Any, Protocol

from fastvlm_mlx.peak_memory import peak_memory as resident_peak


class Runtime(Protocol):
    """The requests that a runtime answers. Times are seconds from the call."""

    def versions(self) -> dict[str, str]: ...

    def facts(self) -> dict[str, float]:
        """What else is to be known of the loaded model."""
        return {}

    def first(self, image: str, prompt: str, tokens: int) -> dict[str, Any]:
        """A question about a new image; `tokens` of answer."""
        ...

    def follow(self, prompt: str, tokens: int) -> dict[str, Any]:
        """A second question about the same image, as its own chat would ask it."""
        ...


def summary(
    started: float, stamps: list[float], ids: list[int], **more: Any
) -> dict[str, Any]:
    """TTFT and tokens per second from the times at which the tokens arrived.

    TTFT: from the call with a path and a prompt, the model loaded, to the first token.
    """
    spent = stamps[-1] - stamps[0]
    return {
        "ttft": stamps[0] - started,
        "generation_tps": (len(stamps) - 1) / spent if len(stamps) > 1 else None,
        "ids": ids,
        **more,
    }


def peak_memory() -> int:
    """Bytes of this process at most so far."""
    resident = resident_peak() or 0
    # macOS does not count Metal's memory as resident. What is not imported is not used.
    metal = 0
    if (mx := sys.modules.get("mlx.core")) and mx.default_device().type != mx.cpu:
        metal = mx.get_peak_memory()
    if (torch := sys.modules.get("torch")) and torch.backends.mps.is_available():
        metal = max(metal, torch.mps.driver_allocated_memory())
    return max(resident, metal)


def serve(load: Any) -> None:
    """Loads a runtime with the JSON of the command line, then answers until the end."""
    # What a library prints to stdout must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        print(json.dumps({**content, "peak_memory": peak_memory()}), file=answers)

    started = time.perf_counter()
    runtime: Runtime = load(**json.loads(sys.argv[1]))
    seconds = time.perf_counter() - started
    facts = runtime.facts() if hasattr(runtime, "facts") else {}
    answer({"load": seconds, "versions": runtime.versions(), "facts": facts})
    for line in sys.stdin:
        request = json.loads(line)
        action = getattr(runtime, request.pop("do"))
        busy = time.process_time()
        try:
            found = action(**request)
            answer({**found, "cpu_seconds": time.process_time() - busy})
        except Exception as error:  # reported; the other peers go on
            answer({"error": f"{type(error).__name__}: {error}"})
