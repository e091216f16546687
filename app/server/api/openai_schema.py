"""Schema of the body of /v1/chat/completions, as OpenAI's clients send it.

Unknown fields are rejected, as OpenAI's server does; so are values that FastVLM does
not support (`UNSUPPORTED`).
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fastvlm_mlx.app.server.api.chat_request import (
    Count,
    Integer,
    TopK,
    TopLogprobs,
)
from fastvlm_mlx.app.server.api.strict import Strict


class TextPart(Strict):
    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: Any = Field(None, description="Ignored.")
    logprobs: Any = Field(None, description="Ignored: of an answer in a history.")
    cache_control: Any = Field(None, description="Ignored: all prompts are cached.")
    prompt_cache_breakpoint: Any = Field(None, description="Ignored, as that.")


class RefusalPart(Strict):
    type: Literal["refusal"]
    refusal: str


Detail = Literal["auto", "low", "high", "original"]


class ImageURL(Strict):
    url: str = Field(description="data:image/...;base64,... or an http(s) URL")
    detail: Detail | None = Field(
        None, description="Ignored: every image is resized to one size."
    )
    format: str | None = Field(None, description="Ignored: the file says it.")


class ImagePart(Strict):
    """Also with the URL alone, as older clients write it."""

    type: Literal["image_url", "input_image"]
    image_url: ImageURL | str
    detail: Detail | None = Field(None, description="Ignored.")
    cache_control: Any = Field(None, description="Ignored: all prompts are cached.")
    prompt_cache_breakpoint: Any = Field(None, description="Ignored, as that.")


class VideoURL(Strict):
    url: str = Field(description="data:video/...;base64,... or an http(s) URL")


class VideoPart(Strict):
    """A video, of which the model sees at most 8 frames, each with its time."""

    type: Literal["video_url"]
    video_url: VideoURL | str
    cache_control: Any = Field(None, description="Ignored: all prompts are cached.")


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]


def _text_parts(content: Any) -> Any:
    """With the texts that stand among the parts, as LangChain writes them, as parts."""
    if not isinstance(content, list):
        return content
    return [{"type": "text", "text": p} if isinstance(p, str) else p for p in content]


Texts = Annotated[list[TextPart], Field(max_length=256, fail_fast=True)]
AssistantParts = Annotated[list[AssistantPart], Field(max_length=256, fail_fast=True)]
Parts = Annotated[list[Part], Field(max_length=256, fail_fast=True)]


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: Annotated[str | Texts, BeforeValidator(_text_parts)]
    name: str | None = None


class UserMessage(Strict):
    role: Literal["user"]
    content: Annotated[str | Parts, BeforeValidator(_text_parts)]
    name: str | None = None


class ToolMessage(Strict):
    """What a tool returned; to the model a turn of the user's."""

    role: Literal["tool"]
    content: Annotated[str | Parts, BeforeValidator(_text_parts)]
    tool_call_id: str | None = None
    name: str | None = None


class Function(Strict):
    name: str
    arguments: str = ""


class ToolCall(Strict):
    """A call that another model made; to the model a text of the assistant's."""

    type: Literal["function"] = "function"
    function: Function
    id: str | None = None
    index: int | None = None


class AssistantMessage(Strict):
    """Also with the empty fields that servers and clients add to an answer."""

    role: Literal["assistant"]
    content: Annotated[str | AssistantParts | None, BeforeValidator(_text_parts)] = None
    name: str | None = None
    refusal: str | None = Field(None, description="Ignored.")
    annotations: list[Any] | None = Field(None, description="Ignored.")
    reasoning: Any = Field(None, description="Ignored: not for the next turn.")
    reasoning_content: Any = Field(None, description="Ignored, as `reasoning`.")
    reasoning_details: Any = Field(None, description="Ignored, as `reasoning`.")
    thinking: Any = Field(None, description="Ignored, as `reasoning`.")
    audio: None = None
    function_call: None = None
    tool_calls: (
        Annotated[list[ToolCall], Field(max_length=256, fail_fast=True)] | None
    ) = None


Message = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
]


class TextFormat(Strict):
    type: Literal["text"]


class ObjectFormat(Strict):
    type: Literal["json_object"]


class Schema(Strict):
    name: str = Field(max_length=64)
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
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
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Integer | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4, fail_fast=True)] | None = (
        None
    )
    response_format: (
        Annotated[TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")]
        | None
    ) = None

    logprobs: bool | None = Field(
        None,
        description="Return the log-probabilities of the answer's tokens, at"
        " temperature 1; with `response_format` over the tokens that it allows.",
    )
    top_logprobs: TopLogprobs | None = Field(
        None, description="And those of so many likely tokens in each place."
    )

    # Extensions, with the names that other servers for open models use.
    top_k: TopK | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="As `repetition_penalty`: LM Studio's and llama.cpp's name."
    )
    detailed_timings: bool | None = Field(
        None, description="Measure every stage in `timings`; costs a few milliseconds."
    )

    # Bookkeeping of OpenAI's service: accepted and ignored.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None

    # See UNSUPPORTED.
    n: Any = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None


# The only values, beside null, that FastVLM supports.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
}
# What may hold anything if the field that chooses among it says "none".
CHOICES = {"tools": "tool_choice", "functions": "function_call"}
