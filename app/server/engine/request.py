"""One request to the model, whatever protocol it came in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """What one side said. `pictures` are files, or addresses until they are fetched."""

    role: str  # system, user or assistant
    text: str
    pictures: tuple[bytes | str, ...] = ()


@dataclass(frozen=True)
class Form:
    """JSON as the form of the answer; any object if `schema` is None."""

    schema: Any = None


@dataclass(frozen=True)
class Question:
    """`messages` are of the user and the assistant by turns, the user's first and last.

    `sampling` are fields of `sampling.Sampling`, `detailed` measures every stage.
    """

    messages: tuple[Message, ...]
    system: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    form: Form | None = None
    detailed: bool = False
