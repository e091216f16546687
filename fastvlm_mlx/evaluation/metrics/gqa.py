"""GQA's accuracy: the same text, in lower case and without full stops at its end.

As LLaVA prepares its answers for GQA's own script, which compares them letter by letter
(github.com/haotian-liu/LLaVA, scripts/convert_gqa_for_eval.py).
"""

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question


def mark(question: Question, answer: str) -> float:
    """1 if the answer equals an accepted one."""
    return float(answer.strip().rstrip(".").lower() in question.answers)


GQA = Metric("gqa", "accuracy", mark)
