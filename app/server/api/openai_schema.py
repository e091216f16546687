"""Schema of the body of /v1/chat/completions, as OpenAI's clients send it.

Unknown fields are rejected, as OpenAI's server does; so are values that FastVLM does
not support (`UNSUPPORTED`).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageURL(Strict):
    url: str = Field(description="data:image/...;base64,... or an http(s) URL")
    detail: Literal["auto", "low", "high"] | None = Field(
        None, description="Ignored: every image is resized to one size."
    )


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageURL


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
Texts = Annotated[list[TextPart], Field(max_length=256, fail_fast=True)]
Parts = Annotated[list[Part], Field(max_length=256, fail_fast=True)]


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: str | Texts
    name: str | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: str | Parts
    name: str | None = None


class AssistantMessage(Strict):
    """Also with the null fields that OpenAI's own client adds to an answer."""

    role: Literal["assistant"]
    content: str | Texts
    name: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")
]


class TextFormat(Strict):
    type: Literal["text"]


class ObjectFormat(Strict):
    type: Literal["json_object"]


class Schema(Strict):
    name: str = Field(max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(None, description="Ignored: always enforced.")


class SchemaFormat(Strict):
    type: Literal["json_schema"]
    json_schema: Schema


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


Stop = Annotated[str, Field(min_length=1, max_length=256)]


class ChatRequest(Strict):
    """A chat, the user's turn last."""

    model: str
    messages: Annotated[
        list[Message], Field(min_length=1, max_length=1024, fail_fast=True)
    ]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4, fail_fast=True)] | None = (
        None
    )
    response_format: (
        Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]
        | None
    ) = None

    # Extensions, with the names that other servers for open models use.
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    detailed_timings: bool = Field(
        False, description="Measure every stage in `timings`; costs a few milliseconds."
    )

    # Bookkeeping of OpenAI's service: accepted and ignored.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None

    # See UNSUPPORTED.
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[str] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None


# The only values, beside null, that FastVLM supports.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
