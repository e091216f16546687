"""ScienceQA's accuracy: the answer is a letter, "B. text" or "The answer is B.".

As LLaVA reads them (github.com/haotian-liu/LLaVA, llava/eval/eval_science_qa.py).
"""

import re

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question

_LETTERS = "ABCDE"
_IN_WORDS = re.compile("The answer is ([A-Z]).")


def mark(question: Question, answer: str) -> float:
    """1 if the letter is right."""
    answer = answer.strip()
    if len(answer) == 1 or (answer[:1] in _LETTERS and answer[1:3] == ". "):
        return float(answer[:1] in question.answers)
    found = _IN_WORDS.findall(answer)
    return float(len(found) == 1 and found[0] in question.answers)


SCIENCEQA = Metric("scienceqa", "accuracy", mark)
