"""VQA accuracy, for TextVQA: how many of the annotators answered the same.

An answer's mark is the mean over annotators of min(1, others who said it / 3), after
the normalization of the EvalAI server, as LLaVA's evaluator has them
(github.com/haotian-liu/LLaVA, llava/eval/m4c_evaluator.py, from MMF).
"""

import re

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.metrics.vqa_words import ARTICLES, CONTRACTIONS, NUMBERS
from fastvlm_mlx.evaluation.question import Question

_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_STOP = re.compile(r"\.(?!\d)")
# The evaluator passes re.UNICODE, which is 32, where a count is expected.
_STOPS = 32


def normalize(text: str) -> str:
    """The text as the VQA server compares it: lower case, words in one form."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    text = text.strip().replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in _PUNCTUATION:
        # Beside a blank it goes; between letters it parts two words.
        alone = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if alone else " ")
    words = [NUMBERS.get(word, word) for word in _STOP.sub("", out, _STOPS).split()]
    return " ".join(CONTRACTIONS.get(w, w) for w in words if w not in ARTICLES)


def mark(question: Question, answer: str) -> float:
    """The mean of what the annotators give; of one annotator 1 if it is the same."""
    right = [normalize(each) for each in question.answers]
    same = right.count(normalize(answer))
    if len(right) == 1:
        return float(same)
    # Who said it has one other less.
    said, others = min(1.0, (same - 1) / 3), min(1.0, same / 3)
    return (same * said + (len(right) - same) * others) / len(right) if same else 0.0


VQA = Metric("vqa", "VQA accuracy", mark, binary=False)
