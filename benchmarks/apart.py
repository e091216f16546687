"""Calls a function in a process of its own, which gives its memory back at the end."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

T = TypeVar("T")


def apart(function: Callable[..., T], *arguments: object, **named: object) -> T:
    """What `function` returns or raises; all of it must be picklable.

    For work whose peak of gigabytes would stay with a process that goes on to measure
    others. MLX does not survive a fork, so the process is a new one.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()
