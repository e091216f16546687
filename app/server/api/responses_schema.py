"""Schema of the body of /v1/responses, as OpenAI's clients send it.

Unknown fields are rejected, as OpenAI's server does; so are values that FastVLM does
not support (`UNSUPPORTED`).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from fastvlm_mlx.app.server.api import openai_schema
from fastvlm_mlx.app.server.api.chat_request import Count, Integer, TopK, TopLogprobs
from fastvlm_mlx.app.server.api.strict import Strict

Part = Annotated[
    openai_schema.TextPart | openai_schema.ImagePart | openai_schema.RefusalPart,
    Field(discriminator="type"),
]
Parts = Annotated[list[Part], Field(max_length=256, fail_fast=True)]


class InputMessage(Strict):
    """A message of any side; answers of this server can be sent back as they are."""

    type: Literal["message"]
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Parts
    id: str | None = None
    status: str | None = None
    phase: str | None = Field(None, description="Ignored.")


class FunctionCall(Strict):
    """A call that another model made; to the model a text of the assistant's."""

    type: Literal["function_call"]
    name: str
    arguments: str
    call_id: str | None = None
    id: str | None = None
    status: str | None = None


class FunctionOutput(Strict):
    """What a function returned; to the model a turn of the user's."""

    type: Literal["function_call_output"]
    output: str | Parts
    call_id: str | None = None
    id: str | None = None
    name: str | None = None
    status: str | None = None


class Reasoning(BaseModel):
    """Ignored: not for the next turn."""

    type: Literal["reasoning"]
    model_config = ConfigDict(extra="ignore", strict=True)


def _typed(items: Any) -> Any:
    """With the type of the messages that have none, which OpenAI allows."""
    if not isinstance(items, list):
        return items
    return [
        {"type": "message", **item}
        if isinstance(item, dict) and "role" in item and item.get("type") is None
        else item
        for item in items
    ]


Item = Annotated[
    InputMessage | FunctionCall | FunctionOutput | Reasoning,
    Field(discriminator="type"),
]
Items = Annotated[list[Item], Field(min_length=1, max_length=1024, fail_fast=True)]


class SchemaFormat(Strict):
    type: Literal["json_schema"]
    name: str = Field("", max_length=64)
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    description: str | None = None
    strict: bool | None = Field(None, description="Ignored: always enforced.")


class Text(Strict):
    format: (
        Annotated[
            openai_schema.TextFormat | openai_schema.ObjectFormat | SchemaFormat,
            Field(discriminator="type"),
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = Field(
        None, description="Only the default is supported."
    )


class ReasoningOptions(Strict):
    effort: Literal["none"] | None = Field(None, description="FastVLM does not reason.")
    summary: str | None = Field(None, description="Ignored: there is none.")
    generate_summary: str | None = Field(None, description="Ignored, as `summary`.")


class StreamOptions(Strict):
    include_obfuscation: bool | None = Field(None, description="Ignored.")


LOGPROBS = "message.output_text.logprobs"


class ResponseRequest(Strict):
    """A prompt or a chat, the user's turn last."""

    model: str
    input: Annotated[str | Items, BeforeValidator(_typed)]
    instructions: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    text: Text | None = None
    reasoning: ReasoningOptions | None = None
    include: Annotated[list[str], Field(max_length=64)] | None = Field(
        None, description=f"`{LOGPROBS}` adds them; what does not exist is ignored."
    )
    top_logprobs: TopLogprobs | None = None

    # Extensions, with the names that other servers for open models use.
    seed: Integer | None = None
    top_k: TopK | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    detailed_timings: bool | None = Field(
        None, description="Measure every stage in `timings`; costs a few milliseconds."
    )

    # Accepted and ignored: bookkeeping, and what would only matter if there were tools.
    store: bool | None = Field(None, description="Ignored: nothing is stored.")
    metadata: dict[str, Any] | None = None
    user: str | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Any = None
    access_programs: Any = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Integer | None = None
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="Ignored: what does not fit into the context is an error."
    )

    # See UNSUPPORTED.
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    background_options: Any = None
    prompt: Any = None
    context_management: Any = None
    moderation: Any = None
    image: Any = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None


# The only values, beside null, that FastVLM supports.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "previous_response_id": (),
    "conversation": (),
    "background": (False,),
    "background_options": (),
    "prompt": (),
    "context_management": ([],),
    "moderation": (),
    "image": ({}, {"context_compression": "disabled"}),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
}
CHOICES = {"tools": "tool_choice"}
