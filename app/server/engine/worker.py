"""The thread that owns the model, and the queue of requests in front of it.

Since MLX 0.31.2 only the thread that described an array can compute it. So the model
is loaded, run and dropped on this thread.

Requests are taken up in order of arrival and answered together, up to a number of
them. Between two steps of the answers in progress the next request gets one piece of
work: an image is decoded or encoded, or a part of its prompt is prefilled. So new
requests start soon, and no stream stalls for longer than one such piece.
"""

import gc
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastvlm_mlx import device
from fastvlm_mlx.app.server.engine.answer_stream import AnswerStream
from fastvlm_mlx.app.server.engine.request import GenerationRequest, ModelInfo
from fastvlm_mlx.app.server.http.errors import api_error_from, busy
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.app.server.http.shutdown import shutting_down
from fastvlm_mlx.generation.stream import Chunk

if TYPE_CHECKING:
    from fastvlm_mlx.app.server.engine.engine import Engine

_log = logging.getLogger("fastvlm_mlx.serve")
# Seconds without a request after which freed memory is returned. A GPU's buffers, half
# a GB for one image, take long to make again.
_IDLE, _IDLE_ON_GPU = 5.0, 120.0
BATCH = 8


@dataclass(eq=False)
class _Answer:
    """An answer in progress: `taken_up` at its first piece of work, `begun` at its
    first chunk."""

    stream: AnswerStream
    chunks: Generator[Chunk | None, None, None]
    taken_up: bool = False
    begun: bool = False


class Worker:
    """Answers requests, at most `batch` at a time, on a thread of its own.

    `load_engine` is called on that thread and loads the model.
    """

    def __init__(
        self,
        load_engine: Callable[[], "Engine"],
        limits: Limits | None = None,
        batch: int = BATCH,
    ):
        self.limits = limits or Limits()
        self._batch = batch
        self._load_engine = load_engine
        self._queue: deque[AnswerStream] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._active: list[AnswerStream] = []  # in order of arrival
        self._ready: Future[tuple[ModelInfo, ...]] = Future()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self):
        """Loads the model.

        Raises whatever `load_engine` raises.
        """
        self._thread.start()
        self._ready.result()

    @property
    def models(self) -> tuple[ModelInfo, ...]:
        """The loaded model and, after it, the same with each adapter."""
        return self._ready.result()

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet, those in progress included."""
        with self._change:
            return len(self._queue) + len(self._active)

    def submit(self, request: GenerationRequest) -> AnswerStream:
        """Queues a request; call it on the event loop.

        Raises:
            APIError: The queue is full, or the server is shutting down.
        """
        stream = AnswerStream(request, self.limits.answer_time)
        with self._change:
            if self._closed:
                raise shutting_down()
            if len(self._queue) >= self.limits.waiting:
                raise busy(
                    f"{len(self._queue)} requests are waiting already; try again"
                )
            self._queue.append(stream)
            self._change.notify()
        return stream

    def abandon(self, stream: AnswerStream):
        """Cancels an answer, whether it is queued, in progress or finished."""
        stream.cancel.set()
        with self._change:
            if stream in self._queue:
                self._queue.remove(stream)
                stream.end()

    def stop(self):
        """Fails all answers, those in progress included, and takes no more requests.

        It does not wait; the answers in progress end within one token.
        """
        with self._change:
            self._closed = True
            for stream in self._queue:
                stream.fail(shutting_down())
            self._queue.clear()
            for stream in self._active:
                # Not just its end: half an answer would pass for a whole one.
                stream.fail(shutting_down())
                stream.cancel.set()
            self._change.notify()

    def close(self):
        """Stops, waits for the thread's end and drops the model."""
        self.stop()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self):
        try:
            engine = self._load_engine()
            self._ready.set_result(engine.models())
        except BaseException as error:
            self._ready.set_exception(error)
            return
        answers: list[_Answer] = []
        while self._wait(engine):
            for answer in [each for each in answers if each.begun]:
                self._advance(answer)
            # The latest to come in, if it has no chunk yet, or the next in the queue.
            if not answers or answers[-1].begun:
                answers += self._take_up(engine)
            if answers and not answers[-1].begun:
                self._advance(answers[-1])
            with self._change:
                answers = [each for each in answers if each.stream in self._active]

    def _wait(self, engine: "Engine") -> bool:
        """Waits until there is something to do; False once all is to end."""
        released = False
        idle = _IDLE_ON_GPU if device.on_gpu() else _IDLE
        with self._change:
            while not (self._active or self._queue or self._closed):
                timeout = None if released else idle
                if not self._change.wait(timeout) and not released:
                    released = True
                    engine.release_memory()
            return bool(self._active) or not self._closed

    def _take_up(self, engine: "Engine") -> list[_Answer]:
        """The next answer of the queue, if there is one and room for it."""
        with self._change:
            if self._closed or not self._queue or len(self._active) >= self._batch:
                return []
            stream = self._queue.popleft()
            self._active.append(stream)
        stream.begin()
        return [_Answer(stream, engine.stream(stream.request, stream.cancel))]

    def _advance(self, answer: _Answer):
        """One step of an answer; before its first chunk, one piece of work."""
        stream, chunks = answer.stream, answer.chunks
        try:
            if not answer.begun and stream.cancel.is_set():
                chunks.close()
                return self._end(stream)
            if not answer.taken_up and stream.timed_out:
                raise busy("the request waited too long in the queue; try again")
            answer.taken_up = True
            chunk = next(chunks)
            if chunk is not None:
                answer.begun = True
                stream.put(chunk)
                if stream.timed_out:
                    stream.cancel.set()
                if chunk.finish_reason:
                    next(chunks)  # the end, after what it leaves behind is put away
        except StopIteration:
            self._end(stream)
        except Exception as error:
            if api_error_from(error).status == 500:
                # The type alone: a message may quote the request.
                _log.error("an answer failed: %s", type(error).__name__)
                gc.collect()
            stream.fail(error)
            self._end(stream)

    def _end(self, stream: AnswerStream):
        with self._change:
            self._active.remove(stream)
        stream.end()
