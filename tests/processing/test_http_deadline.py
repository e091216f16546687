"""The end of everything that a fetch does."""

import socket
import threading
import time
from contextlib import closing

import pytest

from fastvlm_mlx.processing import http_deadline
from fastvlm_mlx.processing.http_deadline import Deadline


def test_the_time_that_is_left(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(http_deadline.time, "monotonic", lambda: now[0])
    with closing(Deadline(50)) as deadline:
        assert deadline.left == 50 and not deadline.passed
        now[0] = 149.0
        assert deadline.left == 1 and not deadline.passed
        now[0] = 150.0
        assert deadline.passed and deadline.left == 0.001
        now[0] = 200.0
        assert deadline.passed and deadline.left == 0.001  # never zero: no timeout


def test_connections_are_shut_down_when_it_passes():
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Deadline(0.05)) as deadline:
        deadline.watch(ours)
        ours.settimeout(5)
        assert ours.recv(1) == b""
        assert deadline.passed


def test_a_connection_made_too_late_is_shut_down():
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Deadline(0.01)) as deadline:
        time.sleep(0.05)
        ours.settimeout(5)
        deadline.watch(ours)
        assert ours.recv(1) == b""


def test_one_made_in_time_is_not():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with closing(Deadline(60)) as deadline:
            deadline.watch(ours)
            theirs.send(b"x")
            assert ours.recv(1) == b"x"
        theirs.send(b"y")  # nor at the end
        assert ours.recv(1) == b"y"


def test_what_a_lookup_gives():
    with closing(Deadline(60)) as deadline:
        assert deadline.wait_for(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            deadline.wait_for(lambda: 1 / 0)
        names: list[str] = []
        deadline.wait_for(lambda: names.append(threading.current_thread().name))
        assert names == ["name lookup"]


def test_a_lookup_that_takes_too_long():
    go_on = threading.Event()
    with closing(Deadline(0.05)) as deadline:
        with pytest.raises(TimeoutError, match="^the name was not found in time$"):
            deadline.wait_for(lambda: go_on.wait(20))
    go_on.set()


def test_lookups_that_go_on_are_limited(monkeypatch):
    lookups = threading.BoundedSemaphore(1)
    monkeypatch.setattr(http_deadline, "_LOOKUPS", lookups)
    go_on = threading.Event()
    with closing(Deadline(0.05)) as deadline:
        with pytest.raises(TimeoutError, match="in time"):
            deadline.wait_for(lambda: go_on.wait(20))
        with pytest.raises(TimeoutError, match="too many names"):
            deadline.wait_for(lambda: 7)
    go_on.set()
    assert lookups.acquire(timeout=5)  # the first one gives its place back
    lookups.release()
    with closing(Deadline(60)) as deadline:
        for _ in range(3):
            assert deadline.wait_for(lambda: 7) == 7


def test_closing_ends_the_timer():
    before = threading.active_count()
    Deadline(60).close()
    assert threading.active_count() == before
