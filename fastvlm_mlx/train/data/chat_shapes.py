"""Rows with several messages: LLaVA's `conversations`, OpenAI's `messages`."""

from collections.abc import Mapping
from typing import Any

from fastvlm_mlx.data.faults import BadRow
from fastvlm_mlx.data.image_reference import ImageFinder
from fastvlm_mlx.train.data.conversation import MARK, Message, make_sample, role_of
from fastvlm_mlx.train.data.flat import IMAGES
from fastvlm_mlx.train.data.samples import Image, Sample

_TEXTS = ("text", "input_text", "output_text")
_IMAGES = ("image_url", "image", "input_image")


def llava_sample(
    values: Mapping[str, Any], finder: ImageFinder, question: str
) -> Sample:
    """The sample of a row with `conversations`: `from`, `value`, and `<image>` marks.

    Raises:
        BadRow: it is malformed, or an image is not there.
        EmptyAnswer: an answer is blank.
    """
    messages = _system(values)
    for turn in _list(values["conversations"], "conversations"):
        value = turn.get("value", turn.get("content"))
        if not isinstance(value, str | None):
            raise BadRow("the value of a turn is no text")
        role = role_of(turn.get("from", turn.get("role")))
        messages.append(Message(role, value or ""))
    return make_sample(messages, _images(values, finder), question)


def openai_sample(
    values: Mapping[str, Any], finder: ImageFinder, question: str
) -> Sample:
    """The sample of a row with `messages`: `role` and `content`, a text or its parts.

    Raises:
        BadRow: it is malformed, or an image is not there.
        EmptyAnswer: an answer is blank.
    """
    messages = _system(values)
    for turn in _list(values["messages"], "messages"):
        role = role_of(turn.get("role"))
        if turn.get("weight", 1) != 1:
            raise BadRow("a message has a weight; all answers are learned alike")
        text, images = _content(turn.get("content"), finder)
        # Ollama's way: the images of a message beside its content.
        images += finder.find_all(turn.get("images"))
        messages.append(Message(role, text, tuple(images)))
    return make_sample(messages, _images(values, finder), question)


def _system(values: Mapping[str, Any]) -> list[Message]:
    text = values.get("system")
    return [Message("system", text)] if text and isinstance(text, str) else []


def _images(values: Mapping[str, Any], finder: ImageFinder) -> list[Image]:
    named = (values[name] for name in IMAGES if values.get(name) not in (None, "", []))
    return finder.find_all(next(named, None))


def _list(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise BadRow(f"its {name} are no list of objects")
    return value


def _content(content: Any, finder: ImageFinder) -> tuple[str, list[Image]]:
    """The text and the images of a message. A part that names no image is a mark."""
    if content is None or isinstance(content, str):
        return content or "", []
    texts: list[str] = []
    images: list[Image] = []
    for part in _list(content, "content parts"):
        kind = part.get("type")
        if kind in _TEXTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in _IMAGES:
            names = (part.get(name) for name in ("image_url", "image", "url", "path"))
            named = next((name for name in names if name), None)
            if named is None:
                texts.append(MARK)
            else:
                images.append(finder.find(named))
        else:
            raise BadRow(f"a part is of type {str(kind)[:40]!r}, not text or image_url")
    return "\n".join(texts), images
