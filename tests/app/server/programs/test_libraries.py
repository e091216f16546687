"""Requests as PhotoPrism, paperless-gpt and n8n send them."""

import json
from typing import Any

import pytest

pytest.importorskip("starlette")

from tests.support.serving import RunningServer  # noqa: E402

LABELS = {
    "type": "object",
    "properties": {
        "labels": {
            "type": "array",
            "maxItems": 1,
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string", "maxLength": 8}},
                "required": ["name"],
            },
        }
    },
    "required": ["labels"],
}


def test_photoprisms_captions_by_ollamas_protocol(server: RunningServer, jpeg: str):
    body: dict[str, Any] = {
        "id": "3d2a",
        "model": "tiny:latest",
        "prompt": "Create a caption with exactly one sentence.",
        "suffix": "",
        "options": {"temperature": 0.1, "num_predict": 4},
        "stream": False,
        "images": [jpeg],
    }
    caption = server.send("/api/generate", body).json()
    assert caption["response"] and caption["model"] == "tiny:latest"
    labels = server.send(
        "/api/generate",
        {
            **body,
            "system": "You are a labelling model.",
            "format": "json",
            "options": {
                "temperature": 0.1,
                "top_p": 0.9,
                "stop": ["\n\n"],
                "num_predict": 60,
            },
        },
    )
    assert isinstance(json.loads(labels.json()["response"]), dict)


def test_photoprisms_labels_by_openais_responses(server: RunningServer, jpeg: str):
    form = {"type": "json_schema", "name": "labels", "schema": LABELS, "strict": True}
    body = {
        "model": "tiny",
        "input": [
            {
                "role": "system",
                "type": "message",
                "content": [{"type": "input_text", "text": "You label images."}],
            },
            {
                "role": "user",
                "type": "message",
                "content": [
                    {"type": "input_text", "text": "Name the objects."},
                    {
                        "type": "input_image",
                        "image_url": f"data:image/jpeg;base64,{jpeg}",
                        "detail": "low",
                    },
                ],
            },
        ],
        "text": {"format": form},
        "max_output_tokens": 128,
        "temperature": 0.1,
        "top_p": 0.9,
    }
    reply = server.send("/v1/responses", body, authorization="Bearer -")
    assert reply.status == 200, reply.body
    # It reads the first text of the output.
    part = reply.json()["output"][0]["content"][0]
    assert part["type"] == "output_text" and "labels" in json.loads(part["text"])
    assert reply.json()["error"] is None


def test_paperless_gpt_by_openais_protocol(server: RunningServer, jpeg: str):
    """As its library of clients, langchaingo, writes it."""
    body = {
        "model": "tiny",
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": f"data:image/jpeg;base64,{jpeg}"},
                    },
                    {"type": "text", "text": "Just transcribe the text."},
                ],
            }
        ],
        "temperature": 0,
        "max_completion_tokens": 4,
        "n": 1,
    }
    reply = server.send("/v1/chat/completions", body, authorization="Bearer -")
    answer = reply.json()
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["total_tokens"] > 16


def test_paperless_gpt_by_ollamas_protocol(server: RunningServer, jpeg: str):
    body = {
        "model": "tiny",
        "messages": [
            {
                "role": "user",
                "content": "Just transcribe the text.",
                "images": [jpeg],
            }
        ],
        "stream": False,
        "format": "",
        "keep_alive": "",
        "options": {
            "num_ctx": 4096,
            "num_predict": 4,
            "temperature": 0,
            "top_k": 10,
            "stop": None,
        },
    }
    assert server.send("/api/chat", body).json()["message"]["content"]


def test_n8ns_analysis_of_an_image(server: RunningServer, jpeg: str):
    body = {
        "model": "tiny",
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What's in this image?"},
                    {
                        "type": "input_image",
                        "detail": "auto",
                        "image_url": f"data:image/jpeg;base64,{jpeg}",
                    },
                ],
            }
        ],
        "max_output_tokens": 4,
    }
    reply = server.send("/v1/responses", body, authorization="Bearer -").json()
    assert reply["output"][0]["content"][0]["text"]
    assert reply["usage"]["input_tokens"] > 16 and reply["usage"]["output_tokens"] == 4
