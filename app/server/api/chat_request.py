"""What the chat requests of all protocols share: the order of turns, sampling."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from fastvlm_mlx.app.server.engine.request import Message
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.limits import Limits

# More tokens than any context has; clients send larger numbers for "no limit".
UNLIMITED = 2**31 - 1


def _whole(value: Any) -> Any:
    """A number without a fraction as an integer: 8.0, as JavaScript may write 8."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


# JSON has one kind of number; each of these is an integer of 64 bits at most.
_Whole = BeforeValidator(_whole)
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63), _Whole]
Count = Annotated[int, Field(ge=1, lt=2**63), _Whole]
TopLogprobs = Annotated[int, Field(ge=0, le=20), _Whole]
TopK = Annotated[int, Field(ge=-1, lt=2**63), _Whole]


def sampling_options(values: dict[str, Any]) -> dict[str, Any]:
    """`values` as fields of `Sampling`, without those that the client left out."""
    sent = {name: value for name, value in values.items() if value is not None}
    if "max_tokens" in sent:
        sent["max_tokens"] = min(sent["max_tokens"], UNLIMITED)
    if "top_k" in sent:  # -1 is "all tokens" in vLLM and Ollama, 0 here
        sent["top_k"] = min(max(sent["top_k"], 0), UNLIMITED)
    return sent


def tool_call(name: str, arguments: str) -> str:
    """The text that stands for a call in a history: FastVLM's template has no calls."""
    return f"{name}({arguments})"


def merge_turns(
    messages: Iterable[Message], limits: Limits, field: str = "messages"
) -> tuple[str | None, tuple[Message, ...]]:
    """The system prompt and the turns of a chat, which is `field` of the body.

    Consecutive messages of one role become one, joined by a blank line.

    Raises:
        APIError: FastVLM's template cannot express the order of the messages, or there
            is more text or there are more images than `limits` allow.
    """
    system: str | None = None
    turns: list[Message] = []
    for message in messages:
        if message.role == "system":
            if turns:
                raise _misplaced(field, "a system message must come before all others")
            system = message.text if system is None else f"{system}\n\n{message.text}"
        elif turns and turns[-1].role == message.role:
            turns[-1] = _joined(turns[-1], message)
        else:
            turns.append(message)
    if not turns or turns[0].role != "user":
        raise _misplaced(
            field, "the first message after the system's must be the user's"
        )
    if turns[-1].role != "user":
        raise _misplaced(field, "the last message must be the user's")
    _check(system, turns, limits, field)
    return system, tuple(turns)


def _joined(first: Message, second: Message) -> Message:
    texts = [text for text in (first.text, second.text) if text]
    return replace(
        first,
        text="\n\n".join(texts),
        images=first.images + second.images,
        fields=first.fields + second.fields,
        videos=first.videos | {len(first.images) + at for at in second.videos},
    )


def _misplaced(field: str, message: str) -> APIError:
    return APIError(400, message, code="invalid_value", param=field)


def _check(system: str | None, turns: list[Message], limits: Limits, field: str):
    images = sum(len(turn.images) for turn in turns)
    if images > limits.images:
        raise APIError(
            400,
            f"{images} images; at most {limits.images} may be in a request",
            code="too_many_images",
            param=field,
        )
    text = len(system or "") + sum(len(turn.text) for turn in turns)
    if text > limits.text:
        raise APIError(
            400,
            f"{text} characters of text; at most {limits.text} may be in a request",
            code="context_length_exceeded",
            param=field,
        )
