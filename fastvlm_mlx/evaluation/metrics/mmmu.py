"""MMMU's accuracy: a letter or an option's text, and numbers and texts of open answers.

As in MMMU's evaluation (github.com/MMMU-Benchmark/MMMU, mmmu/utils/eval_utils.py), with
one difference: where that draws an option at random because it finds none in the
answer, the answer counts as wrong, so that a score is the same each time.
"""

import re
from collections.abc import Mapping
from string import ascii_uppercase

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question

_ENDS = ",.!?;:'"
_SHORT = 5  # words of an answer that is not searched for the options' texts

# What comes before the answer in a sentence; in the last one also "=".
_LEADS = (
    "could be ",
    "so ",
    "is ",
    "thus ",
    "therefore ",
    "final ",
    "answer ",
    "result ",
)
_SENTENCE_END = re.compile(r"\.\s(?=[A-Z])|\n")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # 12,345
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),  # 1.2e-3
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),  # 12.3
)


def chosen(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter that an answer chooses, the last if it names several; or None.

    Args:
        answer: what the model said.
        options: the text of each option by its letter.
    """
    for end in _ENDS:
        answer = answer.strip(end)
    answer = f" {answer} "
    for before, after in (("(", ")"), (" ", " ")):
        places = {
            letter: answer.rfind(before + letter + after)
            for letter in options
            if before + letter + after in answer
        }
        if places:
            return max(places, key=places.__getitem__)
    if len(answer.split()) <= _SHORT:
        return None
    said = answer.lower()
    places = {
        letter: said.rfind(text.lower())
        for letter, text in options.items()
        if text.lower() in said
    }
    return max(places, key=places.__getitem__) if places else None


def is_right(answer: str, accepted: tuple[str, ...]) -> bool:
    """Whether an open answer holds an accepted text, or gives an accepted number."""
    right = [value for each in accepted for value in _values(each)]
    texts = [value for value in right if isinstance(value, str)]
    for part in _parts(answer):
        for given in _values(part):
            if isinstance(given, str):
                if any(text in given for text in texts):
                    return True
            elif given in right:
                return True
    return False


def _parts(answer: str) -> list[str]:
    """What each sentence ends in after the nearest lead, and the numbers in that."""
    answer = answer.strip().strip(".").lower()
    sentences = _SENTENCE_END.split(answer)
    found: list[str] = []
    for number, sentence in enumerate(sentences, start=1):
        last = number == len(sentences)
        tails = [
            sentence.split(lead)[-1].strip()
            for lead in (*_LEADS, "=")
            if lead in sentence and (last or lead != "=")
        ]
        if tails and (shortest := _shortest(tails)) not in ("", *_ENDS):
            found.append(shortest)
    found = found or [answer]
    numbers = [
        number
        for part in found
        for pattern in _NUMBERS
        for number in pattern.findall(part)
    ]
    return found + numbers


def _shortest(tails: list[str]) -> str:
    """The first of the shortest; an empty one gives way to any that follows it."""
    shortest = ""
    for tail in tails:
        if not shortest or len(tail) < len(shortest):
            shortest = tail
    return shortest


def _values(text: str) -> list[str | float]:
    """A number to two decimals, else the text in lower case."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    # A letter must stand at the start or end of a word.
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def mark(question: Question, answer: str) -> float:
    """1 if the letter is right, or of an open question the text or number."""
    if not question.choices:
        return float(is_right(answer, question.answers))
    options = dict(zip(ascii_uppercase, question.choices, strict=False))
    return float(chosen(answer, options) in question.answers)


MMMU = Metric("mmmu", "accuracy", mark)
