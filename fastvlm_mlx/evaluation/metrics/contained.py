"""Contained, for OCRBench: the answer holds an accepted text.

As in OCRBench's evaluation (github.com/open-compass/VLMEvalKit,
vlmeval/dataset/image_vqa.py): in lower case, but of formulas (HME100k) with the case
kept and without blanks.
"""

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question

FORMULAS = "Handwritten Mathematical Expression Recognition"


def mark(question: Question, answer: str) -> float:
    """1 if an accepted text is in the answer."""
    plain = _formula if question.category == FORMULAS else _text
    given = plain(answer)
    return float(any(plain(right) in given for right in question.answers))


def _formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _text(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


CONTAINED = Metric("contained", "contained", mark)
