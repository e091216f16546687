"""The letter of the right option, for SEED-Bench, AI2D and others.

The letter is read out of the answer as VLMEvalKit does it without a judge
(github.com/open-compass/VLMEvalKit, vlmeval/utils/matching_util.py): one letter that
stands alone, else "answer is B", else the one option whose text the answer holds. Of a
question without options the texts must be the same, as in lmms-eval's RealWorldQA.
"""

import re
from collections.abc import Mapping
from string import ascii_uppercase

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question

_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_IN_WORDS = re.compile(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", re.IGNORECASE)
_FROM_THE_END = 5  # a single letter before the last words is part of a sentence
# With these an answer is none, whatever follows.
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer chooses; None if that cannot be told.

    Args:
        answer: what the model said.
        options: the text of each option by its letter.
    """
    if any(refusal in answer for refusal in _REFUSALS):
        return None
    words = answer.translate(_MARKS).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and words.index(letters[0]) > len(words) - _FROM_THE_END:
        return letters[0]
    if not letters and "Z" in words:  # what a judge writes for "none of them"
        return None
    if (match := _IN_WORDS.search(answer)) and match[1].upper() in options:
        return match[1].upper()
    return _by_text(answer.lower(), options)


def _by_text(answer: str, options: Mapping[str, str]) -> str | None:
    if len(answer) > 2 * sum(map(len, options.values())):
        return None
    held = [letter for letter, text in options.items() if text.lower() in answer]
    return held[0] if len(held) == 1 else None


def mark(question: Question, answer: str) -> float:
    """1 if the letter is right."""
    if not question.choices:
        given = answer.lower().strip().rstrip(".")
        return float(given in (right.lower() for right in question.answers))
    options = dict(zip(ascii_uppercase, question.choices, strict=False))
    return float(chosen(answer, options) in question.answers)


LETTER = Metric("letter", "accuracy", mark)
