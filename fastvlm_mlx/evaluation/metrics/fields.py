"""JSON answers, field by field."""

import json
from collections.abc import Iterator
from typing import Any

from fastvlm_mlx.evaluation.metrics.metric import Metric
from fastvlm_mlx.evaluation.question import Question


def json_object(text: str) -> dict[str, Any]:
    """The JSON object that a text is; empty if it is none."""
    try:
        found = json.loads(text)
    # Also what is nested deeper than Python can follow.
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def field_marks(right: str, given: str) -> list[tuple[str, bool]]:
    """Each expected field with whether the answer has it, and with the same value."""
    found = dict(_leaves(json_object(given)))
    return [
        (name, name in found and found[name] == value)
        for name, value in _leaves(json_object(right))
    ]


def quality(right: str, given: str) -> float:
    """The share of the expected fields that the answer has right."""
    marks = field_marks(right, given)
    return sum(mark for _, mark in marks) / max(len(marks), 1)


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each field below objects as (`seller.name`, its value as canonical JSON)."""
    for name, each in value.items():
        if isinstance(each, dict) and each:
            yield from _leaves(each, f"{prefix}{name}.")
        else:
            if isinstance(each, float) and each.is_integer():
                each = int(each)  # 3.0 and 3 are one number
            yield prefix + name, json.dumps(each, sort_keys=True, ensure_ascii=False)


def mark(question: Question, answer: str) -> float:
    """The share of right fields, by the accepted answer that has most of them."""
    return max(quality(right, answer) for right in question.answers)


FIELDS = Metric("fields", "right fields", mark, binary=False)
