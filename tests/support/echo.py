"""The conversation in a terminal over a "model" that repeats the question.

    python -m tests.support.echo FOLDER

FOLDER keeps the history. No model is loaded, so a test starts it quickly.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastvlm_mlx.app.chat.repl import Repl
from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.processing.pdf import split_page


@dataclass
class Stages:
    decode: float | None = 0.05
    preprocess: float | None = 0.025
    encode: float | None = None


@dataclass
class Echo:
    """A `generation.Chunk` with numbers that a test can know."""

    text: str
    generation_tokens: int
    prompt_tokens: int = 30
    visual_tokens: int = 16
    cached_tokens: int = 4
    ttft: float = 0.25
    generation_tps: float = 50.0
    peak_memory: int = 1_500_000_000
    timings: Stages = field(default_factory=Stages)
    finish_reason: str = "stop"


class EchoConversation:
    """Answers with the question, word by word; "count" counts slowly and long."""

    model = None
    context_used = 12
    context_size = 8192

    def __init__(self):
        self.turns: list[tuple[str, str]] = []

    def answer(
        self,
        question: str,
        images: tuple[()],
        sampling: Sampling,
        *,
        cancel: Any,
        **options: Any,
    ) -> Iterator[Echo]:
        said = ""
        count = question.startswith("count")
        words = [str(n) for n in range(1000)] if count else question.split(" ")
        for number, word in enumerate(words, start=1):
            time.sleep(0.02 if count else 0)
            if cancel.is_set():
                break
            said += word + " "
            yield Echo(word + " ", number)
        self.turns.append((question, said.strip()))

    def add(self, image: str):
        if not Path(split_page(image)[0]).exists():
            raise ImageError(f"{image}: no such file; check the path")

    def reset(self):
        self.turns = []

    def save(self, path: Path):
        path.write_text(json.dumps(self.turns))

    @classmethod
    def load(cls, model: None, path: Path) -> "EchoConversation":
        loaded = cls()
        loaded.turns = json.loads(path.read_text())
        return loaded


if __name__ == "__main__":
    session = Repl(EchoConversation(), "echo", Sampling())  # pyright: ignore[reportArgumentType]
    session.run(Path(sys.argv[1]) / "history")
