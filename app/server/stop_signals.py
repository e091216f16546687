"""SIGINT, SIGTERM and SIGHUP: the first ends the server, later ones change nothing."""

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, Protocol

# Seconds from the first signal to the end of the process. On a busy machine the last
# step, the release of the model's memory, takes some tenths more.
DEADLINE = 1.5
_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
)


class Stoppable(Protocol):
    """A running server."""

    should_exit: bool


class StopSignals(AbstractContextManager["StopSignals"]):
    """Handles the signals from its start to the end of the process.

    Until `server` is set a signal is a KeyboardInterrupt; from then on it sets the
    server's `should_exit`. The process ends `DEADLINE` seconds after the first signal,
    whatever is still at work then. Without a signal the former handlers are restored.

    The process ends with os._exit after the functions of `atexit`. Python's own end of
    a process takes a second with MLX, now and then does not return, and aborts
    (std::terminate) if a thread is inside MLX.
    """

    def __init__(self):
        self.server: Stoppable | None = None
        self._received = 0
        # Not an Event, whose lock a second signal would find taken by the first.
        self._wakeup, self._wake = os.pipe()
        self._former: dict[int, Any] = {}

    @property
    def received(self) -> bool:
        """Whether the process is about to end."""
        return bool(self._received)

    def __enter__(self) -> "StopSignals":
        # Only the main thread may handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # nohup and the like: a terminal that closes is no reason to stop.
                if number == getattr(signal, "SIGHUP", None) and (
                    signal.getsignal(number) is signal.SIG_IGN
                ):
                    continue
                self._former[number] = signal.signal(number, self._receive)
        # Started now: a handler must not start a thread.
        threading.Thread(target=self._enforce, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not self._received:
            for number, former in self._former.items():
                signal.signal(number, former)
            os.close(self._wake)
            return False
        for number in self._former:
            signal.signal(number, signal.SIG_IGN)
        if isinstance(error, Exception):
            return False
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self._code())

    def _receive(self, number: int, frame: FrameType | None):
        first, self._received = not self._received, self._received or number
        os.write(self._wake, b"!")
        if self.server is not None:
            self.server.should_exit = True
        elif first:
            raise KeyboardInterrupt

    def _code(self) -> int:
        """0 for a server that had started, else as a shell reports the signal."""
        return 0 if self.server is not None else 128 + self._received

    def _enforce(self):
        if os.read(self._wakeup, 1):
            time.sleep(DEADLINE)
            os._exit(self._code())
        os.close(self._wakeup)
