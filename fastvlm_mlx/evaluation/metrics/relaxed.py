"""Relaxed accuracy, for ChartQA: a number may be 5 % off, a text must be the same.

As in Pix2Struct (github.com/google-research/pix2struct, pix2struct/metrics.py), which
VLMEvalKit (vlmeval/dataset/utils/vqa_eval.py) and lmms-eval have too.
"""

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question

_OFF = 0.05


def mark(question: Question, answer: str) -> float:
    """1 if the answer is near enough to an accepted one."""
    return float(any(_is_near(right, answer.strip()) for right in question.answers))


def _is_near(right: str, answer: str) -> bool:
    wanted, given = _number(right), _number(answer)
    if given is None or not wanted:  # of zero no share can be taken
        return answer.lower() == right.lower()
    return abs(given - wanted) / abs(wanted) <= _OFF


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


RELAXED = Metric("relaxed", "relaxed accuracy", mark)
