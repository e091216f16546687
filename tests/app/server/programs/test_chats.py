"""Requests as Open WebUI, Raycast, LM Studio's clients and `llm` send them."""

import json
from typing import Any

import pytest

openai = pytest.importorskip("openai")

from tests.support.serving import RunningServer  # noqa: E402


def image_part(jpeg: str) -> dict[str, Any]:
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/jpeg;base64,{jpeg}"},
    }


def test_open_webui_by_openais_protocol(server: RunningServer, jpeg: str):
    listed = server.send("/v1/models", authorization="Bearer -").json()["data"]
    assert [model["id"] for model in listed] == ["tiny"]
    content = [{"type": "text", "text": "What is this?"}, image_part(jpeg)]
    body = {
        "stream": True,
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "stream_options": {"include_usage": True},
        "max_tokens": 4,
        "temperature": 0.8,
        "top_p": 0.9,
        "frequency_penalty": 0.0,
        "seed": 42,
        "stop": [],
    }
    reply = server.send("/v1/chat/completions", body)
    events = reply.body.decode().split("\n\n")
    assert events[-2] == "data: [DONE]"
    assert json.loads(events[-3][6:])["usage"]["completion_tokens"] == 4
    # The title of the chat, which it asks for by itself.
    title = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "### Task:\nWrite a title."}],
        "stream": False,
        "max_completion_tokens": 8,
    }
    assert server.send("/v1/chat/completions", title).status == 200


def test_open_webui_by_ollamas_protocol(server: RunningServer, jpeg: str):
    assert server.send("/api/version").json()["version"]
    assert server.send("/api/tags").json()["models"][0]["name"] == "tiny"
    assert server.send("/api/ps").status == 200
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "What is this?", "images": [jpeg]}],
        "stream": True,
        "keep_alive": "5m",
        "options": {"temperature": 0.8, "num_predict": 4, "num_ctx": 4096, "seed": 42},
    }
    lines = server.send("/api/chat", body).body.splitlines()
    assert json.loads(lines[-1])["done"] and json.loads(lines[-1])["eval_count"] == 4


def test_raycasts_extension_for_ollama(server: RunningServer, jpeg: str):
    """It shows the models that see, and sends its tools' results back."""
    shown = server.send("/api/show", {"name": "tiny"}).json()
    assert "vision" in shown["capabilities"] and "tools" not in shown["capabilities"]
    body = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "thinking": ""},
            {"role": "user", "content": "What is this?", "images": [jpeg]},
        ],
        "think": False,
        "keep_alive": "5m",
        "options": {"num_predict": 4},
    }
    lines = server.send("/api/chat", body).body.splitlines()
    assert json.loads(lines[0])["message"]["role"] == "assistant"
    assert json.loads(lines[-1])["done"]
    generate = {
        "model": "tiny",
        "prompt": "What is this?",
        "images": [jpeg],
        "system": "Be brief.",
        "think": False,
        "options": {"num_predict": 4, "temperature": 0.2, "num_ctx": 2048},
    }
    lines = server.send("/api/generate", generate).body.splitlines()
    assert json.loads(lines[-1])["done_reason"] == "length"


def test_lm_studios_clients(server: RunningServer, jpeg: str):
    """They look for type "vlm", then send all the parameters that LM Studio knows."""
    listed = server.send("/api/v0/models").json()["data"]
    assert [model["id"] for model in listed if model["type"] == "vlm"] == ["tiny"]
    body = {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Always answer briefly."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    image_part(jpeg),
                ],
            },
        ],
        "top_p": 0.95,
        "top_k": 40,
        "temperature": 0.7,
        "max_tokens": 4,
        "stream": False,
        "stop": ["\n\n\n\n"],
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logit_bias": {},
        "repeat_penalty": 1.1,
        "seed": 7,
    }
    reply = server.send("/v1/chat/completions", body, authorization="Bearer lm-studio")
    assert reply.status == 200, reply.body
    del body["repeat_penalty"]
    same = server.send("/v1/chat/completions", {**body, "repetition_penalty": 1.1})
    wanted = same.json()["choices"][0]["message"]["content"]
    assert reply.json()["choices"][0]["message"]["content"] == wanted


def test_llm_with_an_attachment_and_a_schema(server: RunningServer, jpeg: str):
    """`llm -m fastvlm 'What is this?' -a image.jpg`, as its OpenAI models do it."""
    content = [{"type": "text", "text": "What is this?"}, image_part(jpeg)]
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content},
    ]
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}},
        "required": ["name"],
    }
    form = {"name": "output", "schema": schema}
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="DUMMY_KEY") as client:
        create = client.chat.completions.create
        chunks = list(
            create(
                model="tiny",
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
                max_tokens=4,
            )
        )
        usage = [chunk.usage for chunk in chunks if chunk.usage][0].model_dump()
        assert usage.pop("prompt_tokens") and usage.pop("completion_tokens") == 4
        answer = create(
            model="tiny",
            messages=messages,
            stream=False,
            response_format={"type": "json_schema", "json_schema": form},
            max_tokens=60,
        )
    assert "name" in json.loads(answer.choices[0].message.content)
