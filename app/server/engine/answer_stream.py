"""An answer in progress: events from the model's thread to the event loop."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastvlm_mlx.app.server.engine.request import GenerationRequest
from fastvlm_mlx.app.server.http.errors import APIError, api_error_from
from fastvlm_mlx.generation.stream import Chunk


@dataclass(frozen=True)
class StreamEvent:
    """A chunk of the answer with the request's times.

    `ttft`: seconds from the arrival of the whole request to the first token, of which
    `queued` were spent in the queue.
    """

    chunk: Chunk
    ttft: float
    queued: float

    @property
    def text(self) -> str:
        return self.chunk.text

    @property
    def finish_reason(self) -> str | None:
        """None, "stop" or "length"; a timed-out answer reports "length"."""
        reason = self.chunk.finish_reason
        return "length" if reason == "cancelled" else reason

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


class AnswerStream:
    """The answer to `request`: events for one reader on the running event loop.

    The worker's thread calls `begin`, `put`, `fail` and `end`; everything else belongs
    to the event loop's thread. Both sides may set `cancel`.
    """

    def __init__(self, request: GenerationRequest, timeout: float):
        self.request = request
        self.cancel = threading.Event()
        self.deadline = time.perf_counter() + timeout
        self._created = time.perf_counter()
        self._queued = 0.0
        self._ttft: float | None = None
        self._loop = asyncio.get_running_loop()
        # None is the end.
        self._events: asyncio.Queue[StreamEvent | APIError | None] = asyncio.Queue()

    @property
    def timed_out(self) -> bool:
        """Whether the deadline has passed."""
        return time.perf_counter() > self.deadline

    def begin(self):
        """Ends the time in the queue."""
        self._queued = time.perf_counter() - self._created

    def put(self, chunk: Chunk):
        """Adds a chunk."""
        if self._ttft is None:
            self._ttft = time.perf_counter() - self._created
        self._post(StreamEvent(chunk, self._ttft, self._queued))

    def fail(self, error: Exception):
        """Adds an error, which the reader raises as APIError."""
        self._post(api_error_from(error, self.request.names))

    def end(self):
        """Ends the stream."""
        self._post(None)

    def _post(self, event: StreamEvent | APIError | None):
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: there is no reader any more
            self.cancel.set()

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """The events.

        Raises:
            APIError: The worker failed.
        """
        while (event := await self._events.get()) is not None:
            if isinstance(event, APIError):
                raise event
            yield event
