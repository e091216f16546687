"""One request to the model, whatever protocol it came in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """What one side said. `images` are files, or addresses until they are fetched."""

    role: str  # system, user or assistant
    text: str
    images: tuple[bytes | str, ...] = ()


@dataclass(frozen=True)
class ResponseFormat:
    """JSON as the form of the answer; any object if `schema` is None."""

    schema: Any = None


@dataclass(frozen=True)
class GenerationRequest:
    """`messages` are of the user and the assistant by turns, the user's first and last.

    `sampling` are fields of `sampling.Sampling`, `detailed` measures every stage.
    """

    messages: tuple[Message, ...]
    system: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    form: ResponseFormat | None = None
    detailed: bool = False
