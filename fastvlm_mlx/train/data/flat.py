"""Rows of one question and one answer: captions, tables, `question` with `answer`."""

import json
from collections.abc import Mapping
from typing import Any

from fastvlm_mlx.data.column_names import ANSWERS, IMAGES, QUESTIONS, first_value
from fastvlm_mlx.data.faults import BadRow
from fastvlm_mlx.data.image_reference import ImageFinder
from fastvlm_mlx.train.data.conversation import Message, make_sample
from fastvlm_mlx.train.data.samples import Sample


class FailedCaption(Exception):
    """The row is an image that `caption` could not open or answer about."""


def is_flat(values: Mapping[str, Any]) -> bool:
    """Whether a row has this shape."""
    return any(name in values for name in (*ANSWERS, "error"))


def is_cut_off(values: Mapping[str, Any]) -> bool:
    """Whether the row is a caption that its greatest length ended."""
    return values.get("finish_reason") == "length"


def flat_sample(
    values: Mapping[str, Any], finder: ImageFinder, question: str, *, table: bool
) -> Sample:
    """The sample of a row; `question` is asked where it has none.

    Raises:
        BadRow: it has no answer, its image is not there, or, in a `table`, not named.
        FailedCaption: its caption failed.
    """
    answer = first_value(values, ANSWERS)
    if answer in (None, "") and values.get("error"):
        raise FailedCaption
    if not any(name in values for name in ANSWERS):
        raise BadRow("no answer")
    named = first_value(values, IMAGES)
    if table and not str(named or "").strip():
        raise BadRow("no image is named")
    asked = first_value(values, QUESTIONS)
    if not isinstance(asked, str | None):
        raise BadRow("its question is no text")
    system = values.get("system") or None
    if not isinstance(system, str | None):
        raise BadRow("its system prompt is no text")
    if answer is None:
        answer = ""
    elif not isinstance(answer, str):
        # As `caption` does with answers in JSON.
        answer = json.dumps(answer, ensure_ascii=False)
    messages = [Message("user", asked or ""), Message("assistant", answer)]
    if system is not None:
        messages.insert(0, Message("system", system))
    return make_sample(
        messages, finder.find_all(named), question, marks_in_answers=True
    )
