"""Deadline: an end for everything a fetch does, name lookups included."""

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Lookups whose caller has given up go on in their threads; no more than this many.
_LOOKUPS = threading.BoundedSemaphore(64)


class Deadline:
    """Shuts the watched connections down after `seconds`.

    A socket's timeout is for one read; a server that drips needs one for all of them.
    """

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left(self) -> float:
        return max(self._end - time.monotonic(), 0.001)

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def wait_for(self, function: Callable[[], T]) -> T:
        """The result of `function`, a name lookup, which the system may not end.

        Raises:
            TimeoutError: the deadline has passed; `function` goes on in its thread.
        """
        lookups = _LOOKUPS
        if not lookups.acquire(timeout=self.left):
            raise TimeoutError("too many names are being looked up")
        results: queue.SimpleQueue[tuple[T | None, BaseException | None]]
        results = queue.SimpleQueue()

        def work():
            try:
                results.put((function(), None))
            except BaseException as error:
                results.put((None, error))
            finally:
                lookups.release()

        threading.Thread(target=work, name="name lookup", daemon=True).start()
        try:
            result, error = results.get(timeout=self.left)
        except queue.Empty:
            raise TimeoutError("the name was not found in time") from None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def watch(self, sock: socket.socket):
        self._sockets.append(sock.dup())
        if self.passed:
            self._shut_down()

    def close(self):
        self._timer.cancel()
        self._timer.join()
        for sock in self._sockets:
            sock.close()

    def _shut_down(self):
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
