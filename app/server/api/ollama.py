"""Ollama's protocol: builds generation requests, formats answers."""

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fastvlm_mlx.app.server.api import ollama_schema as schema
from fastvlm_mlx.app.server.api import token_logprobs
from fastvlm_mlx.app.server.api.chat_request import (
    UNLIMITED,
    merge_turns,
    sampling_options,
    tool_call,
)
from fastvlm_mlx.app.server.api.image_data import from_base64
from fastvlm_mlx.app.server.engine.answer_stream import StreamEvent
from fastvlm_mlx.app.server.engine.request import (
    GenerationRequest,
    Message,
    ModelInfo,
    ResponseFormat,
)
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.generation.logprobs import TokenLogprob

# The version of Ollama whose protocol this is; some clients require a minimum.
VERSION = "0.12.11"
# What the library's messages call `schema` and `max_tokens`.
_NAMES = {"schema": "format", "max_tokens": "options.num_predict"}
# Ollama puts an image where its text has this; FastVLM's stand before the text.
_IMAGE_MARK = "[img]"
_ZERO = re.compile(r"[-+]?(0+(\.0*)?(ns|us|µs|ms|s|m|h)?)+")


async def generation_request(
    request: schema.ChatRequest | schema.GenerateRequest, limits: Limits
) -> GenerationRequest | None:
    """The generation request of `request`, None if it only loads the model.

    Raises:
        APIError: FastVLM does not support what it asks for.
    """
    if request.think:
        raise APIError(400, f'"{request.model[:100]}" does not support thinking')
    if isinstance(request, schema.ChatRequest):
        sent = request.messages or []
    else:
        sent = _messages(request)
    if not sent:
        return None
    # Base64 of many megabytes: not on the event loop.
    messages = await asyncio.to_thread(
        lambda: [_message(request, at, message) for at, message in enumerate(sent)]
    )
    system, turns = merge_turns(messages, limits)
    return GenerationRequest(
        messages=turns,
        system=system,
        sampling=_sampling(request),
        response_format=_response_format(request.format),
        names=_NAMES,
    )


def _messages(request: schema.GenerateRequest) -> list[schema.Message]:
    if not request.prompt and not request.images:
        return []
    message = schema.Message(role="user", content=request.prompt, images=request.images)
    if not request.system:
        return [message]
    return [schema.Message(role="system", content=request.system), message]


def _message(
    request: schema.ChatRequest | schema.GenerateRequest,
    at: int,
    message: schema.Message,
) -> Message:
    is_chat = isinstance(request, schema.ChatRequest)
    field = f"messages[{at}].images" if is_chat else "images"
    role = "user" if message.role == "tool" else message.role
    if message.images and role != "user":
        raise APIError(400, f"{field}: only the user's messages can have images")
    images = tuple(
        from_base64(image, f"{field}[{number}]")
        for number, image in enumerate(message.images or ())
    )
    fields = tuple(f"{field}[{number}]" for number in range(len(images)))
    return Message(role, _text(message), images, fields)


def _text(message: schema.Message) -> str:
    """The text, without the marks of where its images are, and with its calls."""
    text = (message.content or "").replace(_IMAGE_MARK, "", len(message.images or ()))
    calls = [
        tool_call(one.function.name, json.dumps(one.function.arguments or {}))
        for one in message.tool_calls or ()
    ]
    return "\n".join(filter(None, [text, *calls]))


def _sampling(
    request: schema.ChatRequest | schema.GenerateRequest,
) -> dict[str, Any]:
    options = request.options or schema.Options.model_validate({})
    values = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p,
        "repetition_penalty": options.repeat_penalty,
        "stop": options.stop,
        # Alone the second has no effect, as in Ollama.
        "top_logprobs": (request.top_logprobs or 0) if request.logprobs else None,
    }
    if options.num_predict is not None:
        # Without a limit the answer may fill the context.
        unlimited = options.num_predict < 1
        values["max_tokens"] = UNLIMITED if unlimited else options.num_predict
    if options.seed is not None and options.seed >= 0:
        values["seed"] = options.seed % 2**32
    return sampling_options(values)


def _response_format(format: str | dict[str, Any] | None) -> ResponseFormat | None:
    if not format and not isinstance(format, dict):
        return None
    return ResponseFormat() if format == "json" else ResponseFormat(format)


class Formatter:
    """Responses of /api/chat or /api/generate; see `response.ResponseFormatter`."""

    media_type = "application/x-ndjson"

    def __init__(self, model: str, chat: bool):
        self._model = model
        self._chat = chat

    def complete(
        self, text: str, last: StreamEvent, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        return {**self._head(text), **self._ending(last), **_logprobs(logprobs)}

    def event(self, event: StreamEvent) -> bytes:
        # As in Ollama, the line that ends the answer has no text.
        lines, logprobs = b"", _logprobs(event.chunk.logprobs)
        if event.text or logprobs:
            lines = _line({**self._head(event.text), "done": False, **logprobs})
        if event.finish_reason:
            lines += _line({**self._head(""), **self._ending(event)})
        return lines

    def stream_error(self, error: APIError) -> bytes:
        ending = {"done": True, "done_reason": "error"}
        return _line({**error_body(error), **self._head(""), **ending})

    def loaded(self, *, unload: bool = False) -> dict[str, object]:
        """The response to a request that only loads or unloads the model."""
        reason = "unload" if unload else "load"
        return {**self._head(""), "done": True, "done_reason": reason}

    def _head(self, text: str) -> dict[str, object]:
        head: dict[str, object] = {"model": self._model, "created_at": now()}
        if self._chat:
            return {**head, "message": {"role": "assistant", "content": text}}
        return {**head, "response": text}

    def _ending(self, last: StreamEvent) -> dict[str, object]:
        chunk = last.chunk
        speed, steps = chunk.generation_tps, max(chunk.generation_tokens - 1, 0)
        decoding = steps / speed if speed else 0.0
        return {
            "done": True,
            "done_reason": last.finish_reason,
            "total_duration": int((last.ttft + decoding) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": chunk.prompt_tokens,
            "prompt_eval_duration": int((last.ttft - last.queued) * 1e9),
            "eval_count": chunk.generation_tokens,
            "eval_duration": int(decoding * 1e9),
            "timings": last.timings(),
        }


def _logprobs(entries: Sequence[TokenLogprob] | None) -> dict[str, object]:
    """As Ollama writes them: what is empty is left out."""
    if not entries:
        return {}
    content = [
        _without_nothing({**one, "top_logprobs": [_without_nothing(t) for t in top]})
        for one, top in token_logprobs.written(entries)
    ]
    return {"logprobs": content}


def _without_nothing(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, [])}


def is_zero(keep_alive: Any) -> bool:
    """Whether the model is to be unloaded: 0, "0", "0s", "0m0s" and their like."""
    if isinstance(keep_alive, str):
        return bool(_ZERO.fullmatch(keep_alive.strip()))
    return not isinstance(keep_alive, bool) and keep_alive == 0


def error_body(error: APIError) -> dict[str, object]:
    """An error in Ollama's format."""
    return {"error": error.message}


def tags(infos: Sequence[ModelInfo], started: str) -> dict[str, object]:
    """The response of /api/tags."""
    return {"models": [_tag(info, started) for info in infos]}


def _tag(info: ModelInfo, started: str) -> dict[str, object]:
    return {
        "name": info.name,
        "model": info.name,
        "modified_at": started,
        "size": info.bytes,
        "digest": hashlib.sha256(info.name.encode()).hexdigest(),
        "details": _details(info),
    }


def show(info: ModelInfo, started: str) -> dict[str, object]:
    """The response of /api/show."""
    family = info.family
    return {
        "modelfile": "",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _details(info),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": info.parameters,
            f"{family}.context_length": info.context_length,
        },
        "capabilities": ["completion", *(["vision"] if info.vision else [])],
        "modified_at": started,
    }


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _details(info: ModelInfo) -> dict[str, object]:
    bits = info.quantization
    return {
        "parent_model": info.parent,
        "format": "mlx",
        "family": info.family,
        "families": [info.family],
        "parameter_size": f"{info.parameters / 1e9:.1f}B",
        "quantization_level": f"Q{bits}" if bits else "F16",
    }


def _line(value: dict[str, object]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"
