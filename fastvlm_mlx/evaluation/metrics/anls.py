"""ANLS, for DocVQA and InfoVQA: how near the answer is to an accepted one.

One minus the edit distance by the longer length, the best of the accepted answers, and
nothing below a half. As in the evaluation of the Robust Reading Competition
(rrc.cvc.uab.es), which VLMEvalKit (vlmeval/dataset/utils/vqa_eval.py) and lmms-eval
have too.
"""

from rapidfuzz.distance import Levenshtein

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question

_LEAST = 0.5


def mark(question: Question, answer: str) -> float:
    """0, or 0.5 to 1."""
    distance = min(_distance(right, answer) for right in question.answers)
    return 0.0 if 1 - distance < _LEAST else 1 - distance


def _distance(right: str, answer: str) -> float:
    """Edits by length, 0 to 1; letters of any case and any white space are one."""
    # The length is that of the texts as they are, blanks included.
    length = max(len(right.upper()), len(answer.upper()))
    edits = Levenshtein.distance(_plain(right), _plain(answer))
    return edits / length if length else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


ANLS = Metric("anls", "ANLS", mark, binary=False)
