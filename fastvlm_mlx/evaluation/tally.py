"""Marks by category: how many, their mean and its interval."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastvlm_mlx.evaluation.statistics import Interval, interval


@dataclass(frozen=True)
class Row:
    """The marks of one category, or of all.

    - `category`: its name.
    - `count`: the number of marks.
    - `score`: their mean, 0 to 1.
    - `interval`: of the mean, 95 %; Wilson's if every mark is 0 or 1.
    """

    category: str
    count: int
    score: float
    interval: Interval


class Tally:
    """Collects the marks of a run, 0 to 1 each."""

    def __init__(self, marks: Iterable[tuple[str, float]] = ()):
        self._marks: dict[str, list[float]] = {}
        for category, mark in marks:
            self.add(category, mark)

    def add(self, category: str, mark: float) -> None:
        """Counts one mark."""
        self._marks.setdefault(category, []).append(float(mark))

    @property
    def categories(self) -> Sequence[str]:
        """Their names, as they came."""
        return tuple(self._marks)

    def share(self, *categories: str) -> float:
        """The mean of the marks of these categories together.

        Raises:
            ZeroDivisionError: they have none.
        """
        marks = [mark for each in categories for mark in self._marks.get(each, ())]
        return sum(marks) / len(marks)

    def rows(self) -> list[Row]:
        """A row for each category, as they came.

        Raises:
            OptionError: nothing was counted.
        """
        return [_row(name, marks) for name, marks in self._marks.items()]

    def total(self, name: str = "all") -> Row:
        """The row of all marks together.

        Raises:
            OptionError: nothing was counted.
        """
        return _row(name, [mark for marks in self._marks.values() for mark in marks])


def _row(name: str, marks: Sequence[float]) -> Row:
    ends = interval(marks)
    return Row(name, len(marks), sum(marks) / len(marks), ends)
