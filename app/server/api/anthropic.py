"""Anthropic's protocol: builds generation requests, formats answers."""

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastvlm_mlx.app.server.api import anthropic_schema as schema
from fastvlm_mlx.app.server.api.chat_request import (
    merge_turns,
    sampling_options,
    tool_call,
)
from fastvlm_mlx.app.server.api.image_data import from_base64, from_url
from fastvlm_mlx.app.server.api.server_sent import event as _event
from fastvlm_mlx.app.server.api.strict import refuse_unsupported
from fastvlm_mlx.app.server.engine.answer_stream import StreamEvent
from fastvlm_mlx.app.server.engine.request import (
    GenerationRequest,
    Message,
    ResponseFormat,
)
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.generation.logprobs import TokenLogprob

# The types of errors by status; Anthropic has no others.
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}


async def generation_request(
    request: schema.MessagesRequest, limits: Limits
) -> GenerationRequest:
    """The generation request of `request`.

    Raises:
        APIError: FastVLM does not support what it asks for.
    """
    chat = await _chat(request, limits)
    config = request.output_config
    form = (config and config.format) or request.output_format
    older = form is not None and form is request.output_format
    names = {
        "schema": "output_format.schema" if older else "output_config.format.schema"
    }
    return replace(
        chat,
        sampling=_sampling(request),
        response_format=None if form is None else ResponseFormat(form.schema_),
        detailed=bool(request.detailed_timings),
        names=names,
    )


async def count_request(
    request: schema.CountRequest, limits: Limits
) -> GenerationRequest:
    """A generation request that does little more than read the prompt.

    Raises:
        APIError: FastVLM does not support what it asks for.
    """
    chat = await _chat(request, limits)
    return replace(chat, sampling={"max_tokens": 1})


async def _chat(request: schema.CountRequest, limits: Limits) -> GenerationRequest:
    refuse_unsupported(request, schema.UNSUPPORTED, schema.CHOICES)
    # Base64 of many megabytes: not on the event loop.
    messages = await asyncio.to_thread(
        lambda: [_message(at, message) for at, message in enumerate(request.messages)]
    )
    if request.system:
        messages.insert(0, Message("system", _text(request.system)))
    system, turns = merge_turns(messages, limits)
    return GenerationRequest(messages=turns, system=system)


def _message(at: int, message: schema.Message) -> Message:
    if isinstance(message.content, str):
        return Message(message.role, message.content)
    read = [
        _block(block, f"messages[{at}].content[{number}]")
        for number, block in enumerate(message.content)
    ]
    return replace(_joined(read), role=message.role)


def _block(block: Any, field: str) -> Message:
    """The user's message of one block, whose place in the body is `field`."""
    if isinstance(block, schema.TextBlock):
        return Message("user", block.text)
    if isinstance(block, schema.ToolUseBlock):
        given = json.dumps(block.input, ensure_ascii=False)
        return Message("user", tool_call(block.name, given))
    if isinstance(block, schema.ImageBlock):
        source, field = block.source, f"{field}.source"
        if isinstance(source, schema.Base64Source):
            field = f"{field}.data"
            return Message("user", "", (from_base64(source.data, field),), (field,))
        field = f"{field}.url"
        return Message("user", "", (from_url(source.url, field),), (field,))
    if isinstance(block, schema.ToolResultBlock):
        read = _result(block.content, field)
        return replace(read, text=f"Error: {read.text}") if block.is_error else read
    return Message("user", "")  # thinking


def _result(content: str | list[schema.Result] | None, field: str) -> Message:
    if content is None or isinstance(content, str):
        return Message("user", content or "")
    return _joined(
        [
            _block(block, f"{field}.content[{number}]")
            for number, block in enumerate(content)
        ]
    )


def _joined(messages: Sequence[Message]) -> Message:
    return Message(
        "user",
        "\n".join(message.text for message in messages if message.text),
        tuple(image for message in messages for image in message.images),
        tuple(field for message in messages for field in message.fields),
    )


def _text(content: str | list[schema.TextBlock]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.text for block in content)


def _sampling(request: schema.MessagesRequest) -> dict[str, Any]:
    values = {
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "seed": None if request.seed is None else request.seed % 2**32,
        "stop": request.stop_sequences,
    }
    return sampling_options(values)


class Formatter:
    """Responses of /v1/messages; see `response.ResponseFormatter`."""

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, model: str):
        self._model = model
        self._id = f"msg_{secrets.token_hex(12)}"
        self._started = False

    def complete(
        self, text: str, last: StreamEvent, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        return {
            **self._head([{"type": "text", "text": text}]),
            **_stop(last),
            "usage": usage(last),
            "timings": last.timings(),
        }

    def event(self, event: StreamEvent) -> bytes:
        events = b"" if self._started else self._beginning(event)
        self._started = True
        if event.text:
            delta = {"type": "text_delta", "text": event.text}
            events += _named(
                {"type": "content_block_delta", "index": 0, "delta": delta}
            )
        if event.finish_reason:
            events += _named({"type": "content_block_stop", "index": 0})
            ending = {"delta": _stop(event), "usage": usage(event)}
            timings = {"timings": event.timings()}
            events += _named({"type": "message_delta", **ending, **timings})
            events += _named({"type": "message_stop"})
        return events

    def _beginning(self, event: StreamEvent) -> bytes:
        nothing = {"stop_reason": None, "stop_sequence": None}
        message = {**self._head([]), **nothing, "usage": usage(event)}
        block = {"type": "text", "text": ""}
        return (
            _named({"type": "message_start", "message": message})
            + _named(
                {"type": "content_block_start", "index": 0, "content_block": block}
            )
            + _named({"type": "ping"})
        )

    def stream_error(self, error: APIError) -> bytes:
        return _named(error_body(error))

    def _head(self, content: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
        }


class CountFormatter(Formatter):
    """Responses of /v1/messages/count_tokens."""

    def complete(
        self, text: str, last: StreamEvent, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        return {"input_tokens": last.chunk.prompt_tokens}


def _stop(last: StreamEvent) -> dict[str, object]:
    sequence = last.chunk.stop_sequence
    reason = "stop_sequence" if sequence is not None else "end_turn"
    if last.finish_reason == "length":
        reason = "max_tokens"
    return {"stop_reason": reason, "stop_sequence": sequence}


def usage(last: StreamEvent) -> dict[str, object]:
    """Token counts; as in Anthropic's, `input_tokens` are those that were not cached.

    Image tokens are input tokens.
    """
    chunk = last.chunk
    return {
        "input_tokens": chunk.prompt_tokens - chunk.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": chunk.cached_tokens,
        "output_tokens": chunk.generation_tokens,
    }


def error_body(error: APIError) -> dict[str, object]:
    """An error in Anthropic's format."""
    other = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ERROR_TYPES.get(error.status, other)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def _named(value: dict[str, object]) -> bytes:
    return _event(value, str(value["type"]))
