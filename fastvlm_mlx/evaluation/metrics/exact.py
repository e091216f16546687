"""Exact match with one of the accepted answers, white space at the ends aside."""

import unicodedata

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question


def plain(text: str) -> str:
    """The text without blanks around it, letters and accents composed."""
    return unicodedata.normalize("NFC", text).strip()


def mark(question: Question, answer: str) -> float:
    """1 if the answer equals an accepted one."""
    return float(plain(answer) in map(plain, question.answers))


EXACT = Metric("exact", "exact match", mark)
