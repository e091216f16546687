"""OpenAI's protocol: requests to questions, answers to replies."""

import asyncio
import json
import secrets
import time
from typing import Any

from fastvlm_mlx.app.server.api import openai_schema as schema
from fastvlm_mlx.app.server.api.chat_request import merge_turns
from fastvlm_mlx.app.server.engine.answer_stream import StreamEvent
from fastvlm_mlx.app.server.engine.images import from_url
from fastvlm_mlx.app.server.engine.request import (
    GenerationRequest,
    Message,
    ResponseFormat,
)
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.limits import Limits


async def question_of(request: schema.ChatRequest, limits: Limits) -> GenerationRequest:
    """The question that `request` asks.

    Raises APIError for what FastVLM cannot do.
    """
    for name, allowed in schema.UNSUPPORTED.items():
        value = getattr(request, name)
        if value is not None and value not in allowed:
            raise APIError(
                400,
                f"Unsupported value: '{name}'; FastVLM does not support it",
                code="unsupported_value",
                param=name,
            )
    # Base64 of many megabytes: not on the event loop.
    messages = await asyncio.to_thread(
        lambda: [_message(message) for message in request.messages]
    )
    system, turns = merge_turns(messages, limits)
    return GenerationRequest(
        messages=turns,
        system=system,
        sampling=_sampling(request),
        form=_form(request),
        detailed=request.detailed_timings,
    )


def _message(message: Any) -> Message:
    role = "system" if message.role == "developer" else message.role
    if isinstance(message.content, str):
        return Message(role, message.content)
    texts = [part.text for part in message.content if part.type == "text"]
    images = [part for part in message.content if part.type == "image_url"]
    return Message(
        role,
        "\n".join(texts),
        tuple(from_url(part.image_url.url) for part in images),
    )


def _sampling(request: schema.ChatRequest) -> dict[str, Any]:
    values = {
        # The newer name counts where a client sends both.
        "max_tokens": request.max_completion_tokens or request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "repetition_penalty": request.repetition_penalty,
        "seed": None if request.seed is None else request.seed % 2**32,
        "stop": request.stop,
    }
    return {name: value for name, value in values.items() if value is not None}


def _form(request: schema.ChatRequest) -> ResponseFormat | None:
    chosen = request.response_format
    if isinstance(chosen, schema.SchemaFormat):
        return ResponseFormat(chosen.json_schema.schema_)
    return ResponseFormat() if isinstance(chosen, schema.ObjectFormat) else None


class Writer:
    """Replies of /v1/chat/completions; see `reply.Writer`."""

    media_type = "text/event-stream; charset=utf-8"

    def __init__(self, model: str, include_usage: bool = False):
        self._model = model
        self._include_usage = include_usage
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._begun = False

    def whole(self, text: str, last: StreamEvent) -> dict[str, object]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": 0,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": last.finish,
                }
            ],
            "usage": usage(last),
            "timings": last.timings(),
        }

    def piece(self, piece: StreamEvent) -> bytes:
        if not piece.text and not piece.finish and self._begun:
            return b""
        delta = {"content": piece.text} if piece.text or not self._begun else {}
        if not self._begun:
            delta = {"role": "assistant", **delta}
        choice = {"index": 0, "delta": delta, "logprobs": None}
        event: dict[str, object] = {
            **self._head("chat.completion.chunk"),
            "choices": [{**choice, "finish_reason": piece.finish}],
        }
        if self._include_usage:
            event["usage"] = None
        if not self._begun or piece.finish:
            event["timings"] = piece.timings()
        self._begun = True
        if not piece.finish:
            return _event(event)
        return _event(event) + self._ending(piece)

    def _ending(self, last: StreamEvent) -> bytes:
        ending = b"data: [DONE]\n\n"
        if not self._include_usage:
            return ending
        event = {
            **self._head("chat.completion.chunk"),
            "choices": [],
            "usage": usage(last),
            "timings": last.timings(),
        }
        return _event(event) + ending

    def broken(self, refusal: APIError) -> bytes:
        return _event(self.refused(refusal))

    def refused(self, refusal: APIError) -> dict[str, object]:
        return error(refusal)

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "system_fingerprint": None,
        }


def usage(last: StreamEvent) -> dict[str, object]:
    """Tokens of the request and the answer; an image's are prompt tokens."""
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


def error(refusal: APIError) -> dict[str, object]:
    """A refusal in OpenAI's shape."""
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {
        "error": {
            "message": refusal.message,
            "type": kind,
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def models(facts: dict[str, Any], created: int) -> dict[str, object]:
    """The reply of /v1/models."""
    return {"object": "list", "data": [model(facts, created)]}


def model(facts: dict[str, Any], created: int) -> dict[str, object]:
    """The reply of /v1/models/NAME."""
    return {
        "id": facts["name"],
        "object": "model",
        "created": created,
        "owned_by": "fastvlm-mlx",
    }


def _event(value: dict[str, object]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"
