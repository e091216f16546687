"""Ollama's protocol: requests to questions, answers to replies."""

import asyncio
import hashlib
import json
from datetime import datetime, timezone
from typing import Any

from fastvlm_mlx.app.server.api import ollama_schema as schema
from fastvlm_mlx.app.server.api.chat_request import merge_turns
from fastvlm_mlx.app.server.engine.answer_stream import StreamEvent
from fastvlm_mlx.app.server.engine.images import from_base64
from fastvlm_mlx.app.server.engine.request import (
    GenerationRequest,
    Message,
    ResponseFormat,
)
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.limits import Limits

# The version of Ollama whose protocol this is; some clients ask for a lowest one.
VERSION = "0.12.6"


async def question_of(
    request: schema.ChatRequest | schema.GenerateRequest, limits: Limits
) -> GenerationRequest | None:
    """The question that `request` asks, None if it only loads the model.

    Raises APIError for what FastVLM cannot do.
    """
    if request.think:
        raise APIError(400, f'"{request.model[:100]}" does not support thinking')
    if isinstance(request, schema.ChatRequest):
        given = request.messages or []
    else:
        given = _messages(request)
    if not given:
        return None
    # Base64 of many megabytes: not on the event loop.
    messages = await asyncio.to_thread(lambda: [_message(message) for message in given])
    system, turns = merge_turns(messages, limits)
    return GenerationRequest(
        messages=turns,
        system=system,
        sampling=_sampling(request.options or schema.Options.model_validate({})),
        form=_form(request.format),
    )


def _messages(request: schema.GenerateRequest) -> list[schema.Message]:
    if not request.prompt and not request.images:
        return []
    question = schema.Message(
        role="user", content=request.prompt, images=request.images
    )
    if not request.system:
        return [question]
    return [schema.Message(role="system", content=request.system), question]


def _message(message: schema.Message) -> Message:
    if message.images and message.role != "user":
        raise APIError(400, "only the user's messages can have images")
    images = tuple(map(from_base64, message.images or ()))
    return Message(message.role, message.content, images)


def _sampling(options: schema.Options) -> dict[str, Any]:
    values = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "min_p": options.min_p,
        "repetition_penalty": options.repeat_penalty,
        "stop": options.stop,
    }
    if options.num_predict is not None:
        # The context is the limit of what has none.
        endless = options.num_predict < 1
        values["max_tokens"] = 2**31 if endless else options.num_predict
    if options.seed is not None and options.seed >= 0:
        values["seed"] = options.seed % 2**32
    return {name: value for name, value in values.items() if value is not None}


def _form(format: str | dict[str, Any] | None) -> ResponseFormat | None:
    if not format and not isinstance(format, dict):
        return None
    return ResponseFormat() if format == "json" else ResponseFormat(format)


class Writer:
    """Replies of /api/chat, or of /api/generate; see `reply.Writer`."""

    media_type = "application/x-ndjson"

    def __init__(self, model: str, chat: bool):
        self._model = model
        self._chat = chat

    def whole(self, text: str, last: StreamEvent) -> dict[str, object]:
        return {**self._head(text), **self._ending(last)}

    def piece(self, piece: StreamEvent) -> bytes:
        if piece.finish:
            # As Ollama: what ends the answer says nothing itself.
            said = _line({**self._head(piece.text), "done": False})
            ending = _line({**self._head(""), **self._ending(piece)})
            return said + ending if piece.text else ending
        return _line({**self._head(piece.text), "done": False}) if piece.text else b""

    def broken(self, refusal: APIError) -> bytes:
        return _line(self.refused(refusal))

    def refused(self, refusal: APIError) -> dict[str, object]:
        return error(refusal)

    def loaded(self) -> dict[str, object]:
        """The reply to a request without a question."""
        return {**self._head(""), "done": True, "done_reason": "load"}

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
            "done_reason": last.finish,
            "total_duration": int((last.ttft + decoding) * 1e9),
            "load_duration": 0,
            "prompt_eval_count": chunk.prompt_tokens,
            "prompt_eval_duration": int((last.ttft - last.queued) * 1e9),
            "eval_count": chunk.generation_tokens,
            "eval_duration": int(decoding * 1e9),
            "timings": last.timings(),
        }


def error(refusal: APIError) -> dict[str, object]:
    """A refusal in Ollama's shape."""
    return {"error": refusal.message}


def tags(facts: dict[str, Any], started: str) -> dict[str, object]:
    """The reply of /api/tags."""
    name = facts["name"]
    return {
        "models": [
            {
                "name": name,
                "model": name,
                "modified_at": started,
                "size": facts["bytes"],
                "digest": hashlib.sha256(name.encode()).hexdigest(),
                "details": _details(facts),
            }
        ]
    }


def show(facts: dict[str, Any], started: str) -> dict[str, object]:
    """The reply of /api/show."""
    family = facts["family"]
    return {
        "modelfile": "",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": _details(facts),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": facts["parameters"],
            f"{family}.context_length": facts["context_length"],
        },
        "capabilities": ["completion", *(["vision"] if facts["sees"] else [])],
        "modified_at": started,
    }


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


def _details(facts: dict[str, Any]) -> dict[str, object]:
    bits = facts["quantization"]
    return {
        "parent_model": "",
        "format": "mlx",
        "family": facts["family"],
        "families": [facts["family"]],
        "parameter_size": f"{facts['parameters'] / 1e9:.1f}B",
        "quantization_level": f"Q{bits}" if bits else "F16",
    }


def _line(value: dict[str, object]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"
