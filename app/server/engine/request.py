"""One generation request and the description of the model, free of any protocol."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Message:
    """One message of a chat. `images` are file bytes, or URLs until fetched.

    `fields` say where in the body each of the images is, `labels` what stands before it
    in the prompt; `videos` are the numbers of those that are videos until expanded.
    """

    role: str  # system, user or assistant
    text: str
    images: tuple[bytes | str, ...] = ()
    fields: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    videos: frozenset[int] = frozenset()

    def field(self, at: int) -> str:
        """Where in the body the image number `at` is."""
        return self.fields[at] if self.fields else "messages"

    def label(self, at: int) -> str:
        """What stands before the image number `at` in the prompt; "" is nothing."""
        return self.labels[at] if self.labels else ""


@dataclass(frozen=True)
class ResponseFormat:
    """Constrains the answer to JSON: to `schema`, or to any object if it is None."""

    schema: Any = None


@dataclass(frozen=True)
class GenerationRequest:
    """A chat to answer.

    `messages` alternate between user and assistant; the first and the last are the
    user's. `sampling` are fields of `Sampling`, and `top_logprobs`. `detailed`
    measures every stage.
    `names` are the client's names of `schema` and of fields of `Sampling`, for errors.
    `model` is a name of `ModelInfo`; empty is the model without an adapter.
    """

    messages: tuple[Message, ...]
    system: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    response_format: ResponseFormat | None = None
    detailed: bool = False
    names: Mapping[str, str] = field(default_factory=lambda: {"schema": "schema"})
    model: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """What clients may know about a model.

    `quantization` is in bits, None if the weights are not quantized; `vision` says
    whether the model takes images; `parent` is the model that an adapter is on.
    """

    name: str
    context_length: int
    family: str
    parameters: int
    bytes: int
    quantization: int | None
    vision: bool
    parent: str = ""


def names_model(name: str, own: str) -> bool:
    """Whether a client's `name` is the model's `own`, in any case."""
    # Ollama's clients add the tag.
    wanted, known = (
        text.strip().lower().removesuffix(":latest") for text in (name, own)
    )
    return wanted == known
