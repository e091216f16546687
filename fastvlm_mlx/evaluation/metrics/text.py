"""Character error rate: how much of a text is right."""

from rapidfuzz.distance import Levenshtein

from fastvlm_mlx.evaluation.metrics.exact import plain
from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question


def quality(right: str, given: str) -> float:
    """One minus the character error rate, never below 0; white space at ends aside."""
    right, given = plain(right), plain(given)
    return max(0.0, 1 - edit_distance(right, given) / max(len(right), 1))


def edit_distance(right: str, given: str) -> int:
    """Characters to insert, delete or replace (Levenshtein's distance)."""
    return Levenshtein.distance(right, given)


def mark(question: Question, answer: str) -> float:
    """One minus the character error rate against the nearest accepted text."""
    return max(quality(right, answer) for right in question.answers)


TEXT = Metric("text", "1 - CER", mark, binary=False)
