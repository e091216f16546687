"""Yes or no, for POPE: accuracy, F1, precision, recall, and the share of yes.

An answer is "no" if its first sentence has the word no or not, else "yes", as POPE's
and LLaVA's scripts have it (github.com/AoiDragon/POPE, evaluate.py).
"""

from collections.abc import Sequence

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question


def says_yes(answer: str) -> bool:
    """Whether an answer is taken for yes."""
    words = answer.strip().partition(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"} & set(words)


def _is_yes(question: Question) -> bool:
    return question.answers[0].lower() != "no"


def mark(question: Question, answer: str) -> float:
    """1 if the answer is the right one of the two."""
    return float(says_yes(answer) == _is_yes(question))


def extra(answered: Sequence[tuple[Question, str]]) -> dict[str, float]:
    """F1, precision and recall of yes, and the share of yes, each 0 to 1.

    A share of nothing is 0.
    """
    pairs = [(_is_yes(question), says_yes(answer)) for question, answer in answered]
    said = sum(given for _, given in pairs)
    found = sum(right and given for right, given in pairs)
    precision = _share(found, said)
    recall = _share(found, sum(right for right, _ in pairs))
    return {
        "F1": _share(2 * precision * recall, precision + recall),
        "precision": precision,
        "recall": recall,
        "yes ratio": _share(said, len(pairs)),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


YES_NO = Metric("yes_no", "accuracy", mark, extra)
