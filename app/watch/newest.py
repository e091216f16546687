"""Reads a source in a thread and keeps its newest image alone, or hands over each."""

import threading
import time

from fastvlm_mlx.app.watch.shot import Shot, Source


class Newest:
    """The newest shot of a source; the ones that nobody took in time are dropped.

    Of a source that keeps all, the thread waits until a shot is taken.
    """

    def __init__(self, source: Source, stop: threading.Event):
        self.read = 0  # shots of the source so far
        self._source, self._stop = source, stop
        self._changed = threading.Condition()
        self._shot: Shot | None = None
        self._ended = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def take(self, seconds: float) -> Shot | None:
        """The newest shot that was not taken yet; None if none comes in time.

        Raises:
            FastVLMError: the source cannot go on, and its last shot was taken.
        """
        end = time.monotonic() + seconds
        with self._changed:
            while self._shot is None and not self._ended:
                left = end - time.monotonic()
                if left <= 0 or self._stop.is_set():
                    return None
                # In pieces: a handler of signals only sets `stop`.
                self._changed.wait(min(left, 0.1))
            shot, self._shot = self._shot, None
            self._changed.notify_all()
            if shot is None and self._fault is not None:
                raise self._fault
            return shot

    @property
    def ended(self) -> bool:
        """Whether the source has ended and all of it was taken."""
        with self._changed:
            return self._ended and self._shot is None

    def join(self, seconds: float) -> None:
        """Waits for the thread, which ends soon after `stop` is set."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            for shot in self._source.shots(self._stop):
                if not self._put(shot):
                    break
        except BaseException as fault:
            self._fault = fault
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, shot: Shot) -> bool:
        with self._changed:
            while self._source.keeps_all and self._shot is not None:
                if self._stop.is_set():
                    return False
                self._changed.wait(0.1)
            self._shot = shot
            self.read += 1
            self._changed.notify_all()
        return not self._stop.is_set()
