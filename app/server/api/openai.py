"""OpenAI's protocol: builds generation requests, formats answers."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastvlm_mlx.app.server.api import openai_schema as schema
from fastvlm_mlx.app.server.api import token_logprobs
from fastvlm_mlx.app.server.api.chat_request import (
    merge_turns,
    sampling_options,
    tool_call,
)
from fastvlm_mlx.app.server.api.image_data import from_url
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

_DONE = b"data: [DONE]\n\n"  # the mark that ends a stream


async def generation_request(
    request: schema.ChatRequest, limits: Limits
) -> GenerationRequest:
    """The generation request of `request`.

    Raises:
        APIError: FastVLM does not support what it asks for.
    """
    refuse_unsupported(request, schema.UNSUPPORTED, schema.CHOICES)
    if request.top_logprobs and not request.logprobs:
        raise APIError(
            400,
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
            code="invalid_value",
            param="top_logprobs",
        )
    # Base64 of many megabytes: not on the event loop.
    messages = await asyncio.to_thread(
        lambda: [_message(at, message) for at, message in enumerate(request.messages)]
    )
    system, turns = merge_turns(messages, limits)
    return GenerationRequest(
        messages=turns,
        system=system,
        sampling=_sampling(request),
        response_format=_response_format(request),
        detailed=bool(request.detailed_timings),
        names=_names(request),
    )


def _message(at: int, message: schema.Message) -> Message:
    if isinstance(message, schema.AssistantMessage):
        calls = [
            tool_call(one.function.name, one.function.arguments)
            for one in message.tool_calls or ()
        ]
        text = read_parts(message.content or "", "").text
        return Message("assistant", "\n".join(filter(None, [text, *calls])))
    content = read_parts(message.content, f"messages[{at}].content")
    roles = {"developer": "system", "tool": "user"}
    return replace(content, role=roles.get(message.role, message.role))


def read_parts(
    content: str | Sequence[schema.Part | schema.AssistantPart], field: str
) -> Message:
    """The user's message of `content`, whose place in the body is `field`.

    Raises:
        APIError: An image is none.
    """
    if isinstance(content, str):
        return Message("user", content)
    texts: list[str] = []
    images: list[bytes | str] = []
    fields: list[str] = []
    videos: set[int] = set()
    for number, part in enumerate(content):
        if isinstance(part, schema.TextPart):
            texts.append(part.text)
        elif isinstance(part, schema.RefusalPart):
            texts.append(part.refusal)
        elif isinstance(part, schema.VideoPart):
            videos.add(len(images))
            place, url = f"{field}[{number}].video_url", part.video_url
            if not isinstance(url, str):
                place, url = f"{place}.url", url.url
            fields.append(place)
            images.append(from_url(url, place, kind="video"))
        elif isinstance(part.image_url, str):
            fields.append(f"{field}[{number}].image_url")
            images.append(from_url(part.image_url, fields[-1]))
        else:
            fields.append(f"{field}[{number}].image_url.url")
            images.append(from_url(part.image_url.url, fields[-1]))
    return Message(
        "user",
        "\n".join(texts),
        tuple(images),
        tuple(fields),
        videos=frozenset(videos),
    )


def _sampling(request: schema.ChatRequest) -> dict[str, Any]:
    values = {
        # The newer name has precedence where a client sends both.
        "max_tokens": request.max_completion_tokens or request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty or request.repeat_penalty,
        "seed": None if request.seed is None else request.seed % 2**32,
        "stop": request.stop,
        "top_logprobs": (request.top_logprobs or 0) if request.logprobs else None,
    }
    return sampling_options(values)


def _names(request: schema.ChatRequest) -> dict[str, str]:
    """The client's names of what the library's messages call otherwise."""
    limit = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    return {"schema": "response_format.json_schema.schema", "max_tokens": limit}


def _response_format(request: schema.ChatRequest) -> ResponseFormat | None:
    chosen = request.response_format
    if isinstance(chosen, schema.SchemaFormat):
        return ResponseFormat(chosen.json_schema.schema_)
    return ResponseFormat() if isinstance(chosen, schema.ObjectFormat) else None


class Formatter:
    """Responses of /v1/chat/completions; see `response.ResponseFormatter`."""

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, model: str, include_usage: bool = False):
        self._model = model
        self._include_usage = include_usage
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._started = False

    def complete(
        self, text: str, last: StreamEvent, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": _logprobs(logprobs),
                    "finish_reason": last.finish_reason,
                }
            ],
            "usage": usage(last),
            "timings": last.timings(),
        }

    def event(self, event: StreamEvent) -> bytes:
        if not event.text and not event.finish_reason and self._started:
            return b""
        delta = {"content": event.text} if event.text or not self._started else {}
        if not self._started:
            delta = {"role": "assistant", **delta}
        logprobs = _logprobs(event.chunk.logprobs or None)
        choice = {"index": 0, "delta": delta, "logprobs": logprobs}
        body: dict[str, object] = {
            **self._head("chat.completion.chunk"),
            "choices": [{**choice, "finish_reason": event.finish_reason}],
        }
        if self._include_usage:
            body["usage"] = None
        if not self._started or event.finish_reason:
            body["timings"] = event.timings()
        self._started = True
        if not event.finish_reason:
            return _event(body)
        return _event(body) + self._ending(event)

    def _ending(self, last: StreamEvent) -> bytes:
        if not self._include_usage:
            return _DONE
        event = {
            **self._head("chat.completion.chunk"),
            "choices": [],
            "usage": usage(last),
            "timings": last.timings(),
        }
        return _event(event) + _DONE

    def stream_error(self, error: APIError) -> bytes:
        return _event(error_body(error)) + _DONE

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": None,
        }


def _logprobs(entries: Sequence[TokenLogprob] | None) -> dict[str, object] | None:
    if entries is None:
        return None
    content = [
        {**one, "top_logprobs": top} for one, top in token_logprobs.written(entries)
    ]
    return {"content": content, "refusal": None}


def usage(last: StreamEvent) -> dict[str, object]:
    """Token counts of the request and the answer; image tokens are prompt tokens."""
    chunk = last.chunk
    return {
        "prompt_tokens": chunk.prompt_tokens,
        "completion_tokens": chunk.generation_tokens,
        "total_tokens": chunk.prompt_tokens + chunk.generation_tokens,
        "prompt_tokens_details": {
            "cached_tokens": chunk.cached_tokens,
            "image_tokens": chunk.visual_tokens,
        },
    }


def error_body(error: APIError) -> dict[str, object]:
    """An error in OpenAI's format."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }
