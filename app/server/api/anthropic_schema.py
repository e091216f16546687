"""Schemas of the bodies of /v1/messages, as Anthropic's clients send them.

Unknown fields are rejected, as Anthropic's server does; so are values that FastVLM does
not support (`UNSUPPORTED`).
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from fastvlm_mlx.app.server.api.chat_request import Count, Integer, TopK
from fastvlm_mlx.app.server.api.openai_schema import Stop
from fastvlm_mlx.app.server.api.strict import Strict

_CACHED = "Ignored: all prompts are cached."


class TextBlock(Strict):
    type: Literal["text"]
    text: str
    citations: Any = Field(None, description="Ignored.")
    cache_control: Any = Field(None, description=_CACHED)


class Base64Source(Strict):
    type: Literal["base64"]
    data: str
    media_type: str | None = Field(None, description="Ignored: the file says it.")


class URLSource(Strict):
    type: Literal["url"]
    url: str = Field(description="http(s) URL, or data:image/...;base64,...")


class ImageBlock(Strict):
    type: Literal["image"]
    source: Annotated[Base64Source | URLSource, Field(discriminator="type")]
    cache_control: Any = Field(None, description=_CACHED)


Result = Annotated[TextBlock | ImageBlock, Field(discriminator="type")]
Results = Annotated[list[Result], Field(max_length=256, fail_fast=True)]


class ToolResultBlock(Strict):
    """What a tool returned; to the model a part of the user's turn."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Results | None = None
    is_error: bool | None = None
    cache_control: Any = Field(None, description=_CACHED)


class ToolUseBlock(Strict):
    """A call that another model made; to the model a text of the assistant's."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: Any = Field(None, description="Ignored.")
    cache_control: Any = Field(None, description=_CACHED)


class ThinkingBlock(Strict):
    """Ignored: not for the next turn."""

    type: Literal["thinking", "redacted_thinking"]
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None


UserBlock = Annotated[
    TextBlock | ImageBlock | ToolResultBlock, Field(discriminator="type")
]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | ToolUseBlock, Field(discriminator="type")
]
Texts = Annotated[list[TextBlock], Field(max_length=256, fail_fast=True)]
UserBlocks = Annotated[list[UserBlock], Field(max_length=256, fail_fast=True)]
AssistantBlocks = Annotated[list[AssistantBlock], Field(max_length=256, fail_fast=True)]


class UserMessage(Strict):
    role: Literal["user"]
    content: str | UserBlocks


class AssistantMessage(Strict):
    role: Literal["assistant"]
    content: str | AssistantBlocks


class SystemMessage(Strict):
    role: Literal["system"]
    content: str | Texts


Message = Annotated[
    UserMessage | AssistantMessage | SystemMessage, Field(discriminator="role")
]


class SchemaFormat(Strict):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")
    name: str | None = Field(None, description="Ignored.")


class OutputConfig(Strict):
    format: SchemaFormat | None = None
    effort: Literal["high"] | None = Field(
        None, description="Only the default is supported."
    )


class Thinking(Strict):
    """Also "adaptive", with which the model decides; FastVLM decides not to."""

    type: Literal["disabled", "adaptive"]
    display: str | None = None


class ToolChoice(Strict):
    type: Literal["auto", "none"]
    disable_parallel_tool_use: bool | None = Field(None, description="Ignored.")


class CountRequest(Strict):
    """A chat whose tokens are to be counted, the user's turn last."""

    model: str
    messages: Annotated[
        list[Message], Field(min_length=1, max_length=1024, fail_fast=True)
    ]
    system: str | Texts | None = None
    output_config: OutputConfig | None = None
    output_format: SchemaFormat | None = Field(
        None, description="As `output_config.format`, of which it is an older name."
    )
    thinking: Thinking | None = None

    # Bookkeeping of Anthropic's service: accepted and ignored.
    cache_control: Any = Field(None, description=_CACHED)
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    inference_geo: str | None = None
    speed: str | None = None
    user_profile_id: str | None = None
    workspace_id: str | None = None
    diagnostics: Any = None

    # See UNSUPPORTED.
    tools: list[Any] | None = None
    tool_choice: ToolChoice | None = None
    container: Any = None
    mcp_servers: Any = None
    context_management: Any = None


class MessagesRequest(CountRequest):
    """A chat, the user's turn last."""

    max_tokens: Count
    stream: bool | None = None
    stop_sequences: Annotated[list[Stop], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="Default: 0, as everywhere on this server."
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: TopK | None = None

    # Extensions, with the names that other servers for open models use.
    seed: Integer | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    detailed_timings: bool | None = Field(
        None, description="Measure every stage in `timings`; costs a few milliseconds."
    )


# The only values, beside null, that FastVLM supports.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "container": (),
    "mcp_servers": ([],),
    "context_management": ({}, {"edits": []}),
}
# What may hold anything if the field that chooses among it says "none".
CHOICES = {"tools": "tool_choice"}
