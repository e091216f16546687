"""A runtime for tests of `benchmarks.peers`: known figures instead of a model.

`python -m tests.support.stand_in_runtime JSON` answers as `protocol.serve` does;
`... once TASK` prints one word, as a cold start.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.peers import protocol


class StandIn:
    """Gives `ttft` seconds, `tps` tokens a second and the tokens `ids`.

    Args:
        sleep: how long the first answer really takes, in seconds.
        cold: how long a cold start waits.
        dies: ends the process at the first question.
        refuses: raises an error at the first question.
    """

    def __init__(
        self,
        model: str,
        resolution: int,
        ttft: float = 1.0,
        tps: float = 10.0,
        ids: tuple[int, ...] = (1, 2, 3),
        sleep: float = 0.0,
        cold: float = 0.0,
        dies: bool = False,
        refuses: bool = False,
    ):
        self.model, self.ttft, self.tps, self.ids = model, ttft, tps, list(ids)
        self.sleep, self.dies, self.refuses = sleep, dies, refuses
        self.asked = 0

    def versions(self) -> dict[str, str]:
        return {"stand-in": "1"}

    def first(self, image: str, prompt: str, tokens: int) -> dict[str, Any]:
        if self.dies:
            sys.exit("no such thing")
        if self.refuses:
            raise ValueError("not this image")
        assert Path(image).is_file() and prompt
        time.sleep(self.sleep)
        self.asked += 1
        return {
            "ttft": self.ttft,
            "generation_tps": self.tps,
            # Which question it was: the measured one comes after the warm-up.
            "ids": [*self.ids, self.asked][:tokens],
            "prompt_tokens": 40,
        }

    def follow(self, prompt: str, tokens: int) -> dict[str, Any]:
        return {"ttft": self.ttft / 10}

    def products(self) -> dict[str, float]:
        return {"float32": 1e9, "bfloat16": 5e15}


if __name__ == "__main__":
    if sys.argv[1] == "once":
        task = json.loads(Path(sys.argv[2]).read_text())
        assert task["prompt"]
        time.sleep(task.get("cold", 0.0))
        print("word")
    else:
        protocol.serve(StandIn)
