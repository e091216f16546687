"""Messages in a row's order to a sample: whose turn it is, and where images join."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastvlm_mlx.data.faults import BadRow
from fastvlm_mlx.data.located import is_text
from fastvlm_mlx.train.data.samples import Image, Sample

MARK = "<image>"  # LLaVA's, in a question: here an image of the row is shown
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


class EmptyAnswer(Exception):
    """An answer of the row has no text."""


@dataclass(frozen=True)
class Message:
    """One message; `images` are those that it brings itself."""

    role: str
    text: str
    images: tuple[Image, ...] = ()


def role_of(name: object) -> str:
    """ "system", "user" or "assistant" for what a row calls it.

    Raises:
        BadRow: it is none of these.
    """
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise BadRow(f"a message is from {str(name)[:40]!r}, not user or assistant")
    return role


def make_sample(
    messages: Sequence[Message],
    images: Sequence[Image],
    question: str,
    *,
    marks_in_answers: bool = False,
) -> Sample:
    """The sample of a row.

    Consecutive messages of one role become one, joined by a blank line. `images` are
    those of the row, shown where its questions have marks, or with the first question
    if there is no mark. Images stand before a question's text, as in a chat, so a mark
    within a text only says which question it is. `question` stands in for an empty one
    that shows an image.

    Raises:
        BadRow: questions and answers do not take turns, or marks and images differ.
        EmptyAnswer: an answer is blank.
    """
    system, turns = _take_turns(messages)
    if not all(is_text(message.text) for message in messages):
        raise BadRow("its text is not UTF-8; save the file as UTF-8")
    questions, answers = turns[::2], turns[1::2]
    if not marks_in_answers and any(MARK in answer.text for answer in answers):
        raise BadRow(f"an answer has {MARK} in it; marks belong into questions")
    waiting = list(images)
    joining: list[list[Image]] = []
    for message in questions:
        marks = message.text.count(MARK)
        if message.images:
            if marks not in (0, len(message.images)):
                raise BadRow(_mismatch(marks, len(message.images)))
            joining.append(list(message.images))
        else:
            joining.append(waiting[:marks])
            waiting = waiting[marks:]
            if len(joining[-1]) < marks:
                raise BadRow(_mismatch(_count_marks(questions), len(images)))
    if waiting and not _count_marks(questions):
        joining[0] = waiting + joining[0]
    elif waiting:
        raise BadRow(_mismatch(_count_marks(questions), len(images)))
    texts = [_without_marks(message.text) for message in questions]
    texts = [
        question if shown and not text else text
        for text, shown in zip(texts, joining, strict=True)
    ]
    replies = [answer.text.strip() for answer in answers]
    if not all(replies):
        raise EmptyAnswer
    return Sample(
        images=tuple(image for shown in joining for image in shown),
        turns=tuple(zip(texts, replies, strict=True)),
        system=system,
        images_by_turn=tuple(map(len, joining)),
    )


def _take_turns(messages: Sequence[Message]) -> tuple[str | None, list[Message]]:
    """The system prompt, and the messages from a question to an answer."""
    system: str | None = None
    turns: list[Message] = []
    for message in messages:
        if message.images and message.role != "user":
            raise BadRow(f"an image is in a message of the {message.role}")
        if message.role == "system":
            if turns:
                raise BadRow("a system message must come before all others")
            system = message.text if system is None else f"{system}\n\n{message.text}"
        elif turns and turns[-1].role == message.role:
            texts = [text for text in (turns[-1].text, message.text) if text]
            images = turns[-1].images + message.images
            turns[-1] = Message(message.role, "\n\n".join(texts), images)
        else:
            turns.append(message)
    if not turns:
        raise BadRow("no question and no answer")
    if turns[0].role != "user":
        raise BadRow("the first message must be the user's")
    if turns[-1].role != "assistant":
        raise BadRow("the last message must be an answer")
    return system, turns


def _count_marks(messages: Sequence[Message]) -> int:
    return sum(message.text.count(MARK) for message in messages)


def _mismatch(marks: int, images: int) -> str:
    return (
        f"{marks} {MARK} mark{'s' * (marks != 1)}"
        f" for {images} image{'s' * (images != 1)}"
    )


def _without_marks(text: str) -> str:
    return " ".join(part.strip() for part in text.split(MARK)).strip()
