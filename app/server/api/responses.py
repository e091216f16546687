"""OpenAI's protocol of responses: builds generation requests, formats whole answers."""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastvlm_mlx.app.server.api import openai, openai_schema, token_logprobs
from fastvlm_mlx.app.server.api import responses_schema as schema
from fastvlm_mlx.app.server.api.chat_request import (
    merge_turns,
    sampling_options,
    tool_call,
)
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

# What the library's messages call `schema`, `max_tokens` and `messages`.
_NAMES = {
    "schema": "text.format.schema",
    "max_tokens": "max_output_tokens",
    "messages": "input",
}


async def generation_request(
    request: schema.ResponseRequest, limits: Limits
) -> GenerationRequest:
    """The generation request of `request`.

    Raises:
        APIError: FastVLM does not support what it asks for.
    """
    refuse_unsupported(request, schema.UNSUPPORTED, schema.CHOICES)
    # Base64 of many megabytes: not on the event loop.
    messages = await asyncio.to_thread(_messages, request)
    system, turns = merge_turns(messages, limits, "input")
    return GenerationRequest(
        messages=turns,
        system=system,
        sampling=_sampling(request),
        response_format=_response_format(request),
        detailed=bool(request.detailed_timings),
        names=_NAMES,
    )


def _messages(request: schema.ResponseRequest) -> list[Message]:
    given = request.input
    messages = [Message("system", request.instructions)] if request.instructions else []
    if isinstance(given, str):
        return [*messages, Message("user", given)]
    read = [_item(item, f"input[{at}]") for at, item in enumerate(given)]
    return messages + [message for message in read if message is not None]


def _item(item: schema.Item, field: str) -> Message | None:
    if isinstance(item, schema.FunctionCall):
        return Message("assistant", tool_call(item.name, item.arguments))
    if isinstance(item, schema.FunctionOutput):
        return openai.read_parts(item.output, f"{field}.output")
    if isinstance(item, schema.Reasoning):
        return None
    message = openai.read_parts(item.content, f"{field}.content")
    role = "system" if item.role == "developer" else item.role
    if message.images and role != "user":
        raise APIError(
            400,
            f"{field}.content: only the user's messages can have images",
            code="invalid_value",
            param=f"{field}.content",
        )
    return replace(message, role=role)


def _sampling(request: schema.ResponseRequest) -> dict[str, Any]:
    wanted = schema.LOGPROBS in (request.include or ()) or request.top_logprobs
    values = {
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "seed": None if request.seed is None else request.seed % 2**32,
        "top_logprobs": (request.top_logprobs or 0) if wanted else None,
    }
    return sampling_options(values)


def _response_format(request: schema.ResponseRequest) -> ResponseFormat | None:
    form = request.text and request.text.format
    if isinstance(form, schema.SchemaFormat):
        return ResponseFormat(form.schema_)
    return ResponseFormat() if isinstance(form, openai_schema.ObjectFormat) else None


class ResponseBody:
    """The response to `request` in each of its states."""

    def __init__(self, request: schema.ResponseRequest):
        self._request = request
        self._id = f"resp_{secrets.token_hex(24)}"
        self.item_id = f"msg_{secrets.token_hex(24)}"
        self._created = int(time.time())

    def complete(
        self, text: str, last: StreamEvent, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        """The body of the whole response."""
        cut = last.finish_reason == "length"
        status = "incomplete" if cut else "completed"
        return {
            **self.state(status),
            "completed_at": None if cut else int(time.time()),
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self.item(status, [text_part(text, logprobs)])],
            "usage": usage(last),
            "timings": last.timings(),
        }

    def failed(self, error: APIError) -> dict[str, object]:
        """The response whose stream ended with `error`."""
        fault = {"code": "server_error", "message": error.message}
        return {**self.state("failed"), "error": fault}

    def item(self, status: str, content: list[dict[str, object]]) -> dict[str, object]:
        """The one item of the output."""
        return {
            "id": self.item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def state(self, status: str) -> dict[str, object]:
        """The response without output, with the options that were asked for."""
        request = self._request
        text = request.text or schema.Text.model_validate({})
        form = text.format
        shown = {"type": "text"}
        if form is not None:
            shown = form.model_dump(by_alias=True, exclude_none=True)
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": request.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": request.temperature or 0.0,
            "text": {"format": shown},
            "tool_choice": "none" if request.tools else "auto",
            "tools": [],
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": request.user,
            "metadata": request.metadata or {},
        }


def text_part(text: str, logprobs: Sequence[TokenLogprob] | None) -> dict[str, object]:
    """The one part of an answer."""
    return {
        "type": "output_text",
        "text": text,
        "annotations": [],
        "logprobs": written_logprobs(logprobs),
    }


def written_logprobs(entries: Sequence[TokenLogprob] | None) -> list[dict[str, Any]]:
    """As OpenAI writes them here: a list, empty where none were asked for."""
    return [
        {**_with_bytes(one), "top_logprobs": [_with_bytes(other) for other in top]}
        for one, top in token_logprobs.written(entries or ())
    ]


def _with_bytes(token: dict[str, Any]) -> dict[str, Any]:
    return {**token, "bytes": token["bytes"] or []}


def usage(last: StreamEvent) -> dict[str, object]:
    """Token counts of the request and the answer; image tokens are input tokens."""
    chunk = last.chunk
    return {
        "input_tokens": chunk.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": chunk.cached_tokens,
            "cache_write_tokens": 0,
            "image_tokens": chunk.visual_tokens,
        },
        "output_tokens": chunk.generation_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": chunk.prompt_tokens + chunk.generation_tokens,
    }
