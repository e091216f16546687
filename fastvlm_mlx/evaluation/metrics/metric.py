"""What a metric is: a mark for one answer, and figures of a whole set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastvlm_mlx.evaluation.question import Question


@dataclass(frozen=True)
class Metric:
    """How answers to questions are scored.

    Attributes:
        name: such as "anls", for the command line.
        label: the head of the column that has the mean of the marks.
        mark: 0 (wrong) to 1 (right) for one answer.
        extra: figures of all answers together, by name; None where there are none.
        binary: whether a mark is 0 or 1, never between.
    """

    name: str
    label: str
    mark: Callable[[Question, str], float]
    extra: Callable[[Sequence[tuple[Question, str]]], dict[str, float]] | None = None
    binary: bool = True
