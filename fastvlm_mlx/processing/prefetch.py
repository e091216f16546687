"""Prepares what comes next in a thread, while the caller is at work."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def batches(
    items: Iterable[Item], make: Callable[[Item], Made], size: int
) -> Generator[list[tuple[Item, Made]], None, None]:
    """The items in order, `size` at a time, each with what `make` gives for it.

    A thread makes as many ahead. What `make` raises is raised when its batch is due.
    """
    pool = ThreadPoolExecutor(1)
    try:
        rest = iter(items)
        waiting: deque[tuple[Item, Future[Made]]] = deque()

        def ask(count: int):
            waiting.extend(
                (item, pool.submit(make, item)) for item in islice(rest, count)
            )

        ask(size)
        while waiting:
            batch = [
                (item, future.result())
                for item, future in [waiting.popleft() for _ in range(len(waiting))]
            ]
            ask(size)
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
