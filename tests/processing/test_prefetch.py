"""What is made ahead: its order, how far ahead, and its end."""

import threading

import pytest

from fastvlm_mlx.processing.prefetch import made


def test_items_in_order():
    found = list(made(range(7), lambda n: n * n, ahead=3))
    assert found == [(n, n * n) for n in range(7)]
    assert list(made([], str, ahead=3)) == []


def test_so_many_are_made_while_the_caller_works():
    events = {n: threading.Event() for n in range(9)}
    going = made(range(9), lambda n: events[n].set(), ahead=3)
    next(going)
    assert all(events[n].wait(5) for n in range(4))
    assert not events[4].wait(0.05)
    going.close()
    assert not events[4].is_set()


def test_what_fails_fails_when_it_is_due():
    going = made([4, 2, 0], lambda n: 4 // n, ahead=2)
    assert [next(going), next(going)] == [(4, 1), (2, 2)]
    with pytest.raises(ZeroDivisionError):
        next(going)
