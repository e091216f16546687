"""What is made ahead: its order, its batches, how far ahead, and its end."""

import threading

import pytest

from fastvlm_mlx.processing.prefetch import batches


def test_batches_in_order():
    found = list(batches(range(7), lambda n: n * n, 3))
    squares = [(n, n * n) for n in range(7)]
    assert found == [squares[:3], squares[3:6], squares[6:]]
    assert list(batches([], str, 3)) == []


def test_one_batch_is_made_while_the_caller_works():
    made = {n: threading.Event() for n in range(9)}
    going = batches(range(9), lambda n: made[n].set(), 3)
    next(going)
    assert all(made[n].wait(5) for n in range(6))
    assert not made[6].is_set()
    going.close()
    assert not made[6].is_set()


def test_what_fails_fails_its_batch():
    going = batches([4, 2, 1, 0], lambda n: 4 // n, 2)
    assert next(going) == [(4, 1), (2, 2)]
    with pytest.raises(ZeroDivisionError):
        next(going)
