"""Requests as Frigate and Home Assistant's LLM Vision send them."""

import base64
import json
from typing import Any

import pytest

ollama = pytest.importorskip("ollama")
openai = pytest.importorskip("openai")

from tests.support.serving import RunningServer  # noqa: E402

REVIEW = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 12},
        "potential_threat_level": {"type": "integer", "minimum": 0, "maximum": 2},
    },
    "required": ["title", "potential_threat_level"],
}


def test_frigate_by_openais_protocol(server: RunningServer, jpeg: str):
    """Captions between the frames, low detail; the context's length from the list."""
    part = {"url": f"data:image/jpeg;base64,{jpeg}", "detail": "low"}
    content: list[dict[str, Any]] = [{"type": "text", "text": "What happens?"}]
    for second in (0, 1):
        content.append({"type": "text", "text": f"Frame at {second} s"})
        content.append({"type": "image_url", "image_url": part})
    schema = {**REVIEW, "additionalProperties": False}
    form = {"name": "review", "strict": True, "schema": schema}
    with openai.OpenAI(api_key="-", base_url=f"{server.url}/v1") as client:
        listed = client.models.list().data
        assert listed[0].id == "tiny" and listed[0].max_model_len > 100
        answer = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": content}],
            timeout=30,
            response_format={"type": "json_schema", "json_schema": form},
            max_tokens=90,
        )
    value = json.loads(answer.choices[0].message.content.strip())
    assert sorted(value) == ["potential_threat_level", "title"]
    assert answer.usage.prompt_tokens_details.image_tokens == 32


def test_frigate_by_ollamas_protocol(server: RunningServer, jpeg: str):
    """The image's mark in the text, and the options it sends by itself."""
    client = ollama.Client(host=server.url, timeout=30)
    assert not client.show("tiny").get("error")
    assert "thinking" not in client.show("tiny").get("capabilities")
    options = {"temperature": 0.5, "repeat_penalty": 1.05, "presence_penalty": 0.3}
    answer = client.chat(
        model="tiny",
        messages=[
            {
                "role": "user",
                "content": "What happens?\nFrame at 0 s\n[img]",
                "images": [base64.b64decode(jpeg)],
            }
        ],
        options={**options, "num_predict": 4, "seed": 1},
        think=False,
    )
    assert answer["message"]["content"] and answer["prompt_eval_count"] > 16
    # The mark is not read as a text.
    plain = client.chat(
        model="tiny",
        messages=[
            {
                "role": "user",
                "content": "What happens?\nFrame at 0 s\n",
                "images": [base64.b64decode(jpeg)],
            }
        ],
        options={**options, "num_predict": 4, "seed": 1},
    )
    assert plain["message"]["content"] == answer["message"]["content"]
    client._client.close()


def test_frigate_by_llama_cpps_protocol(server: RunningServer, jpeg: str):
    """What it takes images for is asked of /v1/models, then of /props."""
    entry = server.send("/v1/models").json()["data"][0]
    assert "image" in entry["architecture"]["input_modalities"]
    assert entry["meta"]["n_ctx"] > 100
    props = server.send("/props?model=tiny").json()
    assert (
        props["modalities"]["vision"]
        and "enable_thinking" not in (props["chat_template"])
    )
    image = {"url": f"data:image/jpeg;base64,{jpeg}"}
    content = [
        {"type": "text", "text": "What happens?"},
        {"type": "image_url", "image_url": image},
    ]
    body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
    reply = server.send("/v1/chat/completions", {**body, "max_tokens": 4})
    assert reply.status == 200
    assert reply.json()["choices"][0]["message"]["content"].strip()


def tagged(jpeg: str) -> list[dict[str, Any]]:
    """LLM Vision's parts: a name before each image, the question last."""
    image = {"url": f"data:image/jpeg;base64,{jpeg}"}
    return [
        {"type": "text", "text": "Image 1:"},
        {"type": "image_url", "image_url": image},
        {"type": "text", "text": "Describe the image."},
    ]


def test_llm_vision_by_openais_protocol(server: RunningServer, jpeg: str):
    schema = {**REVIEW, "additionalProperties": False}
    form = {"name": "response", "schema": schema, "strict": True}
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "You describe what a camera sees."},
            {"role": "user", "content": tagged(jpeg)},
        ],
        "max_completion_tokens": 90,
        "temperature": 0.5,
        "top_p": 0.9,
        "response_format": {"type": "json_schema", "json_schema": form},
    }
    path = "/v1/chat/completions"
    reply = server.send(path, body, authorization="Bearer -")
    assert "title" in json.loads(reply.json()["choices"][0]["message"]["content"])
    # What it asks to test a connection, and for a title: two messages of one side.
    hi = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    asked = {"model": "tiny", "messages": hi * 2, "max_tokens": 1, "temperature": 0.5}
    assert server.send(path, {**asked, "stream": False}).status == 200


def test_llm_vision_by_ollamas_protocol(server: RunningServer, jpeg: str):
    """A message for each image, the system prompt where Ollama does not read it."""
    assert server.send("/api/tags").status == 200
    body = {
        "model": "tiny",
        "messages": [
            {"role": "user", "content": "Image 1:", "images": [jpeg]},
            {"role": "user", "content": "Image 2:", "images": [jpeg]},
            {"role": "user", "content": "Describe the images."},
        ],
        "stream": False,
        "keep_alive": 5,
        "options": {"num_predict": 90, "temperature": 0.5, "num_ctx": 2048},
        "format": REVIEW,
        "system": "You describe what a camera sees.",
    }
    reply = server.send("/api/chat", body)
    assert reply.status == 200, reply.body
    assert "title" in json.loads(reply.json()["message"]["content"])


def test_llm_vision_by_anthropics_protocol(server: RunningServer, jpeg: str):
    source = {"type": "base64", "media_type": "image/jpeg", "data": jpeg}
    content = [
        {"type": "text", "text": "Image 1:"},
        {"type": "image", "source": source},
        {"type": "text", "text": "Describe the image."},
    ]
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "system": "You describe what a camera sees.",
    }
    headers = {"x_api_key": "-", "anthropic_version": "2023-06-01"}
    reply = server.send("/v1/messages", body, **headers)
    assert reply.json()["content"][0]["text"]
    # Its structured answers are forced calls, which are refused by name.
    tool = {"name": "return_structured_data", "input_schema": REVIEW}
    forced = {"tools": [tool], "tool_choice": {"type": "tool", "name": tool["name"]}}
    refused = server.send("/v1/messages", {**body, **forced}, **headers)
    assert refused.status == 400
    assert "tool_choice" in refused.json()["error"]["message"]
