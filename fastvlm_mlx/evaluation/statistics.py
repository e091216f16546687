"""How sure a score is: intervals of accuracies, and tests of their differences.

A mark is one answer's score, from 0 to 1. All intervals are of 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastvlm_mlx.errors import OptionError

Z = 1.959963984540054  # the normal distribution's two-sided 95 %
SIGNIFICANT = 0.05
RESAMPLES = 2000
# Marks that are drawn at a time: 32 MB of whole numbers, however large the set is.
_AT_ONCE = 1 << 22

Interval = tuple[float, float]


def wilson(right: int, count: int) -> Interval:
    """Wilson's score interval for a share of `right` in `count` answers.

    Unlike the normal approximation it stays within 0 and 1, and is not empty where all
    answers are right.

    Raises:
        OptionError: there is no answer, or more are right than there are.
    """
    if not 0 <= right <= count or not count:
        raise OptionError(
            f"wilson: {right} right of {count}; give at least one answer, and no more"
            " right ones than answers"
        )
    share, z2 = right / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    half *= Z / (1 + z2 / count)
    # Rounding would leave 1e-17 where the ends are exactly 0 and 1.
    low = 0.0 if right == 0 else middle - half
    return low, 1.0 if right == count else middle + half


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval:
    """The percentile bootstrap interval of a mean, the same for a seed.

    Raises:
        OptionError: there is no value.
    """
    if not len(values):
        raise OptionError("bootstrap: no values; give at least one")
    array, random = np.asarray(values, np.float64), np.random.default_rng(seed)
    means: list[np.ndarray] = []
    rows = max(1, _AT_ONCE // len(array))
    for start in range(0, RESAMPLES, rows):
        size = (min(rows, RESAMPLES - start), len(array))
        means.append(array[random.integers(len(array), size=size)].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def interval(marks: Sequence[float]) -> Interval:
    """The interval of a mean: Wilson's if every mark is 0 or 1, else the bootstrap's.

    Raises:
        OptionError: there is no mark.
    """
    if marks and _is_binary(marks):
        return wilson(round(sum(marks)), len(marks))
    return bootstrap(marks)


def by_chance(won: int, lost: int) -> float:
    """How likely so clear a difference is if neither is better, of paired answers.

    McNemar's exact test where marks are 0 or 1, and the two-sided sign test for marks
    between them: both ask how likely `won` heads in `won + lost` throws are.

    Args:
        won: questions that the second answered better than the first.
        lost: questions that it answered worse.
    """
    changed = won + lost
    tail = ways = 1
    for heads in range(1, min(won, lost) + 1):
        ways = ways * (changed - heads + 1) // heads  # binomial coefficients
        tail += ways
    return min(1.0, 2 * (tail / 2**changed))


@dataclass(frozen=True)
class Comparison:
    """The marks of two models on the same questions.

    - `count`: the questions.
    - `first`, `second`: the means.
    - `difference`: the second's mean less the first's, -1 to 1, with its `interval`.
    - `won`, `lost`: questions that the second answered better, and worse.
    - `p`: see `by_chance`; below `SIGNIFICANT` the difference is no accident.
    - `test`: "McNemar's exact test" or "sign test".
    """

    count: int
    first: float
    second: float
    difference: float
    interval: Interval
    won: int
    lost: int
    p: float
    test: str


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Compares the marks of two models on the same questions, in the same order.

    The interval of the difference is Newcombe's for paired shares (his method 10) if
    every mark is 0 or 1, else the bootstrap's of the differences.

    Raises:
        OptionError: there are none, or not as many of both.
    """
    if not first or len(first) != len(second):
        raise OptionError(
            f"compare: {len(first)} and {len(second)} marks; give at least one, and as"
            " many of both"
        )
    differences = [b - a for a, b in zip(first, second, strict=True)]
    won, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    binary = _is_binary(first) and _is_binary(second)
    if binary:
        both = sum(bool(a and b) for a, b in zip(first, second, strict=True))
        ends = newcombe(both, won, lost, len(first))
    else:
        ends = bootstrap(differences)
    return Comparison(
        count=len(first),
        first=sum(first) / len(first),
        second=sum(second) / len(second),
        difference=sum(differences) / len(differences),
        interval=ends,
        won=won,
        lost=lost,
        p=by_chance(won, lost),
        test="McNemar's exact test" if binary else "sign test",
    )


def newcombe(both: int, second_only: int, first_only: int, count: int) -> Interval:
    """The interval of a difference of two paired shares, the second less the first.

    Newcombe, Statistics in Medicine 17 (1998), method 10 with its continuity
    correction of the correlation.

    Args:
        both, second_only, first_only: how many answers are right in both, and in one.
        count: all answers.
    """
    neither = count - both - second_only - first_only
    first, second = (both + first_only) / count, (both + second_only) / count
    low1, high1 = wilson(both + first_only, count)
    low2, high2 = wilson(both + second_only, count)
    sides = (
        (both + first_only)
        * (second_only + neither)
        * (both + second_only)
        * (first_only + neither)
    )
    covariance = both * neither - second_only * first_only
    if covariance > 0:
        covariance = max(covariance - count / 2, 0)
    phi = covariance / math.sqrt(sides) if sides else 0.0
    down = _apart(second - low2, high1 - first, phi)
    up = _apart(high2 - second, first - low1, phi)
    return second - first - down, second - first + up


def _apart(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))


def _is_binary(marks: Sequence[float]) -> bool:
    return all(mark in (0, 1) for mark in marks)
