"""The thread that owns the model, and the queue of requests in front of it.

Since MLX 0.31.2 only the thread that described an array can compute it. So the model
is loaded, run and dropped on this thread; requests are answered in order of arrival.
"""

import gc
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import TYPE_CHECKING

from fastvlm_mlx import device
from fastvlm_mlx.app.server.engine.answer_stream import AnswerStream
from fastvlm_mlx.app.server.engine.request import GenerationRequest, ModelInfo
from fastvlm_mlx.app.server.http.errors import api_error_from, busy
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.app.server.http.shutdown import shutting_down

if TYPE_CHECKING:
    from fastvlm_mlx.app.server.engine.engine import Engine

_log = logging.getLogger("fastvlm_mlx.serve")
# Seconds without a request after which freed memory is returned. A GPU's buffers, half
# a GB for one image, take long to make again.
_IDLE, _IDLE_ON_GPU = 5.0, 120.0


class Worker:
    """Answers requests one after another on a thread of its own.

    `load_engine` is called on that thread and loads the model.
    """

    def __init__(
        self, load_engine: Callable[[], "Engine"], limits: Limits | None = None
    ):
        self.limits = limits or Limits()
        self._load_engine = load_engine
        self._queue: deque[AnswerStream] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._current: AnswerStream | None = None
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
        """Requests that are not answered yet, the current one included."""
        with self._change:
            return len(self._queue) + (self._current is not None)

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
        """Fails all answers, the current one included, and takes no more requests.

        It does not wait; the current answer ends within one token.
        """
        with self._change:
            self._closed = True
            for stream in self._queue:
                stream.fail(shutting_down())
            self._queue.clear()
            if self._current is not None:
                # Not just its end: half an answer would pass for a whole one.
                self._current.fail(shutting_down())
                self._current.cancel.set()
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
        while (stream := self._next(engine)) is not None:
            self._answer(engine, stream)

    def _next(self, engine: "Engine") -> AnswerStream | None:
        released = False
        idle = _IDLE_ON_GPU if device.on_gpu() else _IDLE
        with self._change:
            self._current = None
            while not self._queue and not self._closed:
                timeout = None if released else idle
                if not self._change.wait(timeout) and not released:
                    released = True
                    engine.release_memory()
            if self._closed:
                return None
            self._current = self._queue.popleft()
            return self._current

    def _answer(self, engine: "Engine", stream: AnswerStream):
        stream.begin()
        try:
            if stream.timed_out:
                raise busy("the request waited too long in the queue; try again")
            if stream.cancel.is_set():
                return
            with closing(engine.stream(stream.request, stream.cancel)) as chunks:
                for chunk in chunks:
                    stream.put(chunk)
                    if stream.timed_out:
                        stream.cancel.set()
        except Exception as error:
            if api_error_from(error).status == 500:
                # The type alone: a message may quote the request.
                _log.error("an answer failed: %s", type(error).__name__)
                gc.collect()
            stream.fail(error)
        finally:
            stream.end()
