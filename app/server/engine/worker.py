"""The one thread that owns the model, and the queue before it.

Since MLX 0.31.2 only the thread that described an array can compute it. So the model
is loaded, asked and dropped on this thread; requests wait in order of arrival.
"""

import gc
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app.server.engine.answer_stream import AnswerStream
from fastvlm_mlx.app.server.engine.request import GenerationRequest
from fastvlm_mlx.app.server.http.errors import api_error_from, busy
from fastvlm_mlx.app.server.http.limits import Limits

if TYPE_CHECKING:
    from fastvlm_mlx.app.server.engine.engine import Engine

_log = logging.getLogger("fastvlm_mlx.serve")
_IDLE = 5.0  # seconds without a request after which freed memory goes back


class Worker:
    """Answers questions one after another on a thread of its own.

    `open_desk` is called on that thread and loads the model.
    """

    def __init__(self, open_desk: Callable[[], "Engine"], limits: Limits | None = None):
        self.limits = limits or Limits()
        self._open_desk = open_desk
        self._queue: deque[AnswerStream] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._current: AnswerStream | None = None
        self._ready: Future[dict[str, Any]] = Future()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> dict[str, Any]:
        """Loads the model and returns what is known about it.

        Raises whatever loading it raises.
        """
        self._thread.start()
        return self._ready.result()

    @property
    def model(self) -> dict[str, Any]:
        """What `start` returned."""
        return self._ready.result()

    @property
    def waiting(self) -> int:
        """Questions that are not answered yet, the current one included."""
        with self._change:
            return len(self._queue) + (self._current is not None)

    def ask(self, question: GenerationRequest) -> AnswerStream:
        """Queues a question; to be called on the event loop.

        Raises APIError if the queue is full.
        """
        answer = AnswerStream(question, self.limits.answer_time)
        with self._change:
            if self._closed:
                raise busy("the server is shutting down")
            if len(self._queue) >= self.limits.waiting:
                raise busy(
                    f"{len(self._queue)} requests are waiting already; try again"
                )
            self._queue.append(answer)
            self._change.notify()
        return answer

    def leave(self, answer: AnswerStream):
        """Gives up an answer, whether it has begun, is still waiting or has ended."""
        answer.cancel.set()
        with self._change:
            if answer in self._queue:
                self._queue.remove(answer)
                answer.end()

    def close(self):
        """Ends the current answer, refuses the waiting ones and drops the model."""
        with self._change:
            self._closed = True
            for answer in self._queue:
                answer.fail(busy("the server is shutting down"))
            self._queue.clear()
            if self._current is not None:
                self._current.cancel.set()
            self._change.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self):
        try:
            desk = self._open_desk()
            self._ready.set_result(desk.facts())
        except BaseException as error:
            self._ready.set_exception(error)
            return
        while (answer := self._next(desk)) is not None:
            self._serve(desk, answer)

    def _next(self, desk: "Engine") -> AnswerStream | None:
        tidy = False
        with self._change:
            self._current = None
            while not self._queue and not self._closed:
                if not self._change.wait(None if tidy else _IDLE) and not tidy:
                    tidy = True
                    desk.tidy()
            if self._closed:
                return None
            self._current = self._queue.popleft()
            return self._current

    def _serve(self, desk: "Engine", answer: AnswerStream):
        answer.begin()
        try:
            if answer.late:
                raise busy("the request waited too long in the queue; try again")
            if answer.cancel.is_set():
                return
            with closing(desk.stream(answer.question, answer.cancel)) as chunks:
                for chunk in chunks:
                    answer.put(chunk)
                    if answer.late:
                        answer.cancel.set()
        except Exception as error:
            if api_error_from(error).status == 500:
                # The type alone: a message may quote what was asked.
                _log.error("an answer failed: %s", type(error).__name__)
                gc.collect()
            answer.fail(error)
        finally:
            answer.end()
