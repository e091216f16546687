"""The thread that reads a source: the newest image alone, or each."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from fastvlm_mlx.app.watch.newest import Newest
from fastvlm_mlx.app.watch.shot import Shot
from fastvlm_mlx.errors import VideoError


class Numbers:
    """A source of `count` shots whose positions are their numbers."""

    name = "numbers"

    def __init__(self, count: int, *, keeps_all: bool, fault: Exception | None = None):
        self.keeps_all, self._count, self._fault = keeps_all, count, fault
        self.given = 0

    def open(self) -> None: ...

    def shots(self, stop: threading.Event) -> Iterator[Shot]:
        image = Image.new("RGB", (8, 8))
        for number in range(self._count):
            self.given += 1
            yield Shot(lambda: image, lambda: None, position=number)  # pyright: ignore
        if self._fault is not None:
            raise self._fault


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_only_the_newest_is_kept():
    source = Numbers(1000, keeps_all=False)
    newest = Newest(source, threading.Event())
    newest.start()
    until(lambda: source.given == 1000)
    newest.join(5)
    shot = newest.take(5)
    assert shot is not None and shot.position == 999
    assert newest.take(0.05) is None and newest.ended
    assert newest.read == 1000


def test_each_is_kept_of_a_source_that_says_so():
    source = Numbers(20, keeps_all=True)
    newest = Newest(source, threading.Event())
    newest.start()
    time.sleep(0.1)
    assert source.given <= 2  # it waits, and does not run ahead
    found = [shot.position for shot in iter(lambda: newest.take(1), None)]
    assert found == list(range(20)) and newest.ended


def test_what_goes_wrong_comes_after_the_last_shot():
    fault = VideoError("camera: broke off; is it still connected?")
    newest = Newest(Numbers(3, keeps_all=False, fault=fault), threading.Event())
    newest.start()
    newest.join(5)
    assert newest.take(1) is not None
    with pytest.raises(VideoError, match="broke off"):
        newest.take(1)


def test_it_ends_when_told():
    stop = threading.Event()
    newest = Newest(Numbers(10**9, keeps_all=True), stop)
    newest.start()
    assert newest.take(5) is not None
    stop.set()
    newest.join(5)
    assert not newest._thread.is_alive()
