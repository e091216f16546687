"""Ctrl-C during training: the step under way is finished, then the run stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupt:
    """Whether somebody wants the run to stop."""

    def __init__(self) -> None:
        self.wanted = False


@contextmanager
def deferred() -> Iterator[Interrupt]:
    """Inside the block the first Ctrl-C only sets `wanted`; a second one is one.

    In other threads than the main one, and where a program handles Ctrl-C itself,
    nothing is changed.
    """
    interrupt = Interrupt()
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return

    def note(_number: int, _frame: object) -> None:
        interrupt.wanted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
