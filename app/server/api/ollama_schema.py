"""Schemas of the bodies that Ollama's clients send.

Unknown fields and options are ignored, as Ollama does; values that FastVLM does not
support are rejected.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fastvlm_mlx.app.server.api.chat_request import Integer, TopK, TopLogprobs


class Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


def _list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Stop = Annotated[str, Field(min_length=1, max_length=256)]
Images = Annotated[list[str], Field(max_length=256, fail_fast=True)]


class Options(Lenient):
    """Ollama's `options`; its other options have no effect here."""

    num_predict: Integer | None = Field(
        None, description="-1: until the context is full"
    )
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: TopK | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Integer | None = Field(None, description="below 0: a random seed")
    stop: (
        Annotated[
            list[Stop], Field(max_length=16, fail_fast=True), BeforeValidator(_list)
        ]
        | None
    ) = None


class Request(Lenient):
    model: str
    stream: bool | None = Field(None, description="default: true")
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: Any = Field(
        None, description="0 is answered, but the model stays loaded all the same."
    )
    logprobs: bool | None = Field(
        None,
        description="Return the log-probabilities of the answer's tokens, at"
        " temperature 1; with `format` over the tokens that it allows.",
    )
    top_logprobs: TopLogprobs | None = Field(
        None, description="With `logprobs`: those of so many likely tokens as well."
    )
    think: bool | str | None = Field(None, description="Only false is supported.")


class Function(Lenient):
    name: str
    arguments: dict[str, Any] | None = None


class ToolCall(Lenient):
    """A call that another model made; to the model a text of the assistant's."""

    function: Function


class Message(Lenient):
    """A message; what a tool returned is to the model a turn of the user's."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = ""
    images: Images | None = None
    tool_calls: (
        Annotated[list[ToolCall], Field(max_length=256, fail_fast=True)] | None
    ) = None


class ChatRequest(Request):
    """A chat, the user's turn last. Without messages it only loads the model."""

    messages: (
        Annotated[list[Message], Field(max_length=1024, fail_fast=True)] | None
    ) = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None


class GenerateRequest(Request):
    """One prompt; without a prompt and images it only loads the model."""

    prompt: str | None = ""
    system: str | None = None
    images: Images | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None
    template: Annotated[str, Field(max_length=0)] | None = None
    context: Annotated[list[Any], Field(max_length=0)] | None = None
    raw: Literal[False] | None = None


class ShowRequest(Lenient):
    model: str | None = None
    name: str | None = None
