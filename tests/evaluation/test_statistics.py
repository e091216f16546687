"""Intervals and tests: published examples, coverage, agreement with exact counts."""

import math
import random

import numpy as np
import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.evaluation.statistics import (
    bootstrap,
    by_chance,
    compare,
    interval,
    newcombe,
    wilson,
)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_as_published(right: int, count: int, low: float, high: float):
    assert wilson(right, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(count - right, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_newcombe_is_as_published():
    """The same author, 17 (1998) 2635-2650, table II, method 10: 36, 12, 2 and 0."""
    assert newcombe(36, 12, 2, 50) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_a_difference_lies_in_its_interval_in_95_of_100_sets():
    chance = random.Random(2)
    held = 0
    for _ in range(1000):
        # Both right 70 %, the second alone 12 %, the first alone 5 %.
        drawn = [chance.random() for _ in range(120)]
        both = sum(d < 0.7 for d in drawn)
        second = sum(0.7 <= d < 0.82 for d in drawn)
        first = sum(0.82 <= d < 0.87 for d in drawn)
        low, high = newcombe(both, second, first, 120)
        held += low <= 0.07 <= high
    assert 930 <= held <= 985


def test_an_interval_holds_the_truth_in_95_of_100_sets():
    chance = random.Random(1)
    for share, count in ((0.9, 60), (0.5, 200)):
        held = 0
        for _ in range(1000):
            right = sum(chance.random() < share for _ in range(count))
            low, high = wilson(right, count)
            held += low <= share <= high
        assert 925 <= held <= 975


def test_a_bootstrap_is_the_same_for_a_seed_and_as_wide_as_theory_says():
    marks = np.random.default_rng(3).choice([0, 0.3, 0.6, 1], size=400)
    low, high = bootstrap(marks.tolist())
    assert bootstrap(marks.tolist()) == (low, high) != bootstrap(marks.tolist(), 1)
    half, mean = 1.96 * marks.std() / math.sqrt(len(marks)), marks.mean()
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.004)


def test_many_marks_are_drawn_in_parts(monkeypatch: pytest.MonkeyPatch):
    marks = [0.0, 0.25, 1.0] * 20
    whole = bootstrap(marks)
    monkeypatch.setattr("fastvlm_mlx.evaluation.statistics._AT_ONCE", 60 * 7)
    assert bootstrap(marks) == whole


def test_marks_of_0_and_1_have_wilsons_interval_others_the_bootstraps():
    assert interval([1.0, 0.0, 1.0]) == wilson(2, 3)
    assert interval([1.0, 0.5, 0.0]) == bootstrap([1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("won", "lost", "p"),
    [(0, 0, 1), (1, 0, 1), (5, 0, 0.0625), (6, 0, 0.03125), (3, 3, 1), (10, 2, 0.0386)],
)
def test_by_chance_is_the_exact_binomial_test(won: int, lost: int, p: float):
    assert by_chance(won, lost) == pytest.approx(p, abs=5e-5)
    assert by_chance(lost, won) == by_chance(won, lost)


def test_by_chance_of_thousands():
    assert 0 < by_chance(2600, 2400) < 0.01
    assert by_chance(4000, 0) == 0


def test_a_comparison_of_right_and_wrong():
    first = [1.0] * 12 + [0.0] * 8
    second = [1.0] * 6 + [0.0] * 6 + [1.0] * 1 + [0.0] * 7
    found = compare(first, second)
    assert (found.count, found.won, found.lost) == (20, 1, 6)
    assert found.difference == pytest.approx(-0.25)
    assert found.interval == newcombe(6, 1, 6, 20)
    assert found.interval[0] < found.difference < found.interval[1]
    assert found.p == by_chance(1, 6)
    assert found.test == "McNemar's exact test"


def test_equal_marks_differ_by_0_but_not_surely():
    found = compare([1.0] * 10, [1.0] * 10)
    assert (found.difference, found.p) == (0, 1)
    assert found.interval[0] < 0 < found.interval[1]


def test_a_comparison_of_graded_marks():
    first, second = [0.3, 0.6, 1.0, 0.0], [0.6, 0.6, 1.0, 0.3]
    found = compare(first, second)
    assert (found.won, found.lost, found.test) == (2, 0, "sign test")
    assert found.difference == pytest.approx(0.15)
    assert found.interval == bootstrap([0.6 - 0.3, 0.0, 0.0, 0.3])


@pytest.mark.parametrize(
    "call",
    [
        lambda: wilson(0, 0),
        lambda: wilson(3, 2),
        lambda: bootstrap([]),
        lambda: interval([]),
        lambda: compare([], []),
        lambda: compare([1.0], []),
    ],
)
def test_nothing_to_count_is_an_error_of_one_line(call):
    with pytest.raises(OptionError, match="; give at least one"):
        call()
