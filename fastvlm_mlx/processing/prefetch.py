"""Prepares what comes next in a thread, while the caller is at work."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar, cast

Item = TypeVar("Item")
Made = TypeVar("Made")


def made(
    items: Iterable[Item], make: Callable[[Item], Made], *, ahead: int
) -> Generator[tuple[Item, Made], None, None]:
    """The items in order, each with what `make` gives for it.

    A thread makes so many ahead. What `make` raises is raised when its item is due.
    """
    pool = ThreadPoolExecutor(1)
    try:
        rest = iter(items)
        waiting: deque[tuple[Item, Future[Made]]] = deque()

        def ask(count: int):
            waiting.extend(
                (item, pool.submit(make, item)) for item in islice(rest, count)
            )

        ask(ahead)
        while waiting:
            item, future = waiting.popleft()
            value = future.result()
            ask(1)
            yield item, value
    finally:
        pool.shutdown(cancel_futures=True)


def ready(
    items: Iterable[Item], size: int, *, ahead: int
) -> Generator[list[Item], None, None]:
    """The items in order, as many at a time as are there, from one to `size`.

    A thread takes them from `items`, up to `ahead` before they are asked for. What
    `items` raises is raised in its place.
    """
    pool = ThreadPoolExecutor(1)
    end = object()
    iterator = iter(items)
    try:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not end:
            taken = [cast(Item, item)]
            waiting.append(pool.submit(next, iterator, end))
            while len(taken) < size and waiting[0].done():
                # Left where it is: raised, or seen to be the end, the next time.
                if waiting[0].exception() or waiting[0].result() is end:
                    break
                taken.append(cast(Item, waiting.popleft().result()))
                waiting.append(pool.submit(next, iterator, end))
            yield taken
    finally:
        pool.shutdown(cancel_futures=True)
