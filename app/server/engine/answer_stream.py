"""One answer on its way from the worker's thread to the event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastvlm_mlx.app.server.engine.request import GenerationRequest
from fastvlm_mlx.app.server.http.errors import APIError, api_error_from
from fastvlm_mlx.generation.stream import Chunk


@dataclass(frozen=True)
class StreamEvent:
    """A chunk as the protocols show it.

    `ttft`: seconds from the whole request's arrival to the first token, of which
    `queued` were spent waiting for others.
    """

    chunk: Chunk
    ttft: float
    queued: float

    @property
    def text(self) -> str:
        return self.chunk.text

    @property
    def finish(self) -> str | None:
        """None, "stop" or "length"; an answer that ran out of time is of the latter."""
        finish = self.chunk.finish_reason
        return "length" if finish == "cancelled" else finish

    def timings(self) -> dict[str, float | int]:
        """Seconds and counts; stages that were not measured are left out."""
        stages = vars(self.chunk.timings)
        return {
            "ttft": round(self.ttft, 6),
            "queue": round(self.queued, 6),
            **{
                name: round(seconds, 6)
                for name, seconds in stages.items()
                if seconds is not None
            },
            "cached_tokens": self.chunk.cached_tokens,
            "visual_tokens": self.chunk.visual_tokens,
            "generation_tps": round(self.chunk.generation_tps, 3),
        }


_END = object()


class AnswerStream:
    """The answer to `question`: pieces for one reader on the running event loop.

    The worker calls `begin`, `put`, `fail` and `end`; everything else belongs to the
    loop's thread. Either side may `cancel`.
    """

    def __init__(self, question: GenerationRequest, seconds: float):
        self.question = question
        self.cancel = threading.Event()
        self.deadline = time.perf_counter() + seconds
        self._asked = time.perf_counter()
        self._queued = 0.0
        self._ttft: float | None = None
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return time.perf_counter() > self.deadline

    def begin(self):
        self._queued = time.perf_counter() - self._asked

    def put(self, chunk: Chunk):
        if self._ttft is None:
            self._ttft = time.perf_counter() - self._asked
        self._post(StreamEvent(chunk, self._ttft, self._queued))

    def fail(self, error: Exception):
        self._post(api_error_from(error))

    def end(self):
        self._post(_END)

    def _post(self, event: Any):
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self.cancel.set()

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """The pieces; raises APIError where the worker failed."""
        while (event := await self._events.get()) is not _END:
            if isinstance(event, APIError):
                raise event
            yield event
