"""Errors about fields name them as the client wrote them, and say what to give."""

from typing import Any

import pytest

pytest.importorskip("starlette")

from tests.support.serving import RunningServer  # noqa: E402

LIMIT = 2**63 - 1


def part(**fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "Hi"}, fields]
    return {"messages": [{"role": "user", "content": content}]}


def only(role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": "Hi", **fields}]}


URL = "messages[0].content[1].image_url"
OF_OPENAI = {
    f"{URL}: give an object with url or a text": part(type="image_url", image_url=5),
    f"{URL}.url: give a text": part(type="image_url", image_url={"url": 5}),
    f"Missing required parameter: '{URL}.url'": part(type="image_url", image_url={}),
    f"Missing required parameter: '{URL}'": part(type="image_url"),
    f"{URL}: give data:image/...;base64,... or an http(s) address": part(
        type="image_url", image_url="cat.png"
    ),
    f"{URL}.url: is not base64 of an image file": part(
        type="image_url", image_url={"url": "data:image/png;base64,A!"}
    ),
    f"{URL}: a data: url must be data:image/...;base64,...": part(
        type="image_url", image_url="data:image/png,AAAA"
    ),
    "messages[0].content[1].type: give one of 'text', 'input_text', 'output_text',"
    " 'image_url', 'input_image', 'video_url'": part(type="audio_url"),
    "Missing required parameter: 'messages[0].content[1].video_url'": part(
        type="video_url"
    ),
    "Missing required parameter: 'messages[0].content[1].type'": part(text="Hi"),
    "messages[0].content: give a text or a list": only(content=5),
    "messages[0].content[0]: give an object": only(content=[5]),
    "messages[0].role: give one of 'system', 'developer', 'user', 'assistant',"
    " 'tool'": only("robot"),
    "Unrecognized request argument supplied: messages[0].user": only(user=1),
    "Missing required parameter: 'messages[0].tool_calls[0].function'": only(
        "assistant", tool_calls=[{}]
    ),
    "messages: give at least 1 value": {"messages": []},
    "temperature: give a number from 0 to 2": {"temperature": 3},
    "top_p: give a number from 0 to 1": {"top_p": "0.5"},
    "repetition_penalty: give a number above 0 and 100 at most": {
        "repetition_penalty": 0
    },
    f"max_tokens: give a whole number from 1 to {LIMIT}": {"max_tokens": 0.0},
    f"max_completion_tokens: give a whole number from 1 to {LIMIT}": {
        "max_completion_tokens": 1.5
    },
    f"top_k: give a whole number from -1 to {LIMIT}": {"top_k": 2**63},
    f"seed: give a whole number from {-LIMIT - 1} to {LIMIT}": {"seed": "1"},
    "stop: give a text or a list": {"stop": 5},
    "stop: give at most 4 values": {"stop": ["a"] * 5},
    "stop[1]: give a text": {"stop": ["a", 5]},
    "stream: give true or false": {"stream": "yes"},
    "response_format.type: give one of 'text', 'json_object', 'json_schema'": {
        "response_format": {"type": "xml"}
    },
    "Unsupported value: 'tool_choice'; FastVLM does not support it,"
    ' give "none" or "auto" or null or leave it out': {"tool_choice": "required"},
    "Unsupported value: 'reasoning_effort'; FastVLM does not support it,"
    ' give "none" or null or leave it out': {"reasoning_effort": "high"},
    "Unrecognized request argument supplied: ignore_eos": {"ignore_eos": True},
}


@pytest.mark.parametrize("message", OF_OPENAI)
def test_openai(server: RunningServer, message: str):
    reply = server.ask(**OF_OPENAI[message])
    assert (reply.status, reply.json()["error"]["message"]) == (400, message)
    param = reply.json()["error"]["param"]
    assert param and param in message


def images(*given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hi", "images": list(given)}]}


OF_OLLAMA = {
    "messages[0].role: give 'system', 'user', 'assistant' or 'tool'": only("robot"),
    "messages[0].content: give a text": only(content=[]),
    "messages[0].images[1]: give a text": images("AAAA", 5),
    "messages[0].images[0]: is not base64 of an image file": images("cat.png"),
    "messages[0].images: only the user's messages can have images": only(
        "assistant", images=["AAAA"]
    ),
    "options.temperature: give a number from 0 to 100": {
        "options": {"temperature": -1}
    },
    f"options.top_k: give a whole number from -1 to {LIMIT}": {
        "options": {"top_k": "40"}
    },
    "options: give an object": {"options": 5},
    "format: give '' or 'json' or an object": {"format": "xml"},
    "think: give true or false or a text": {"think": 5},
    "tools: must be empty": {"tools": [{"type": "function"}]},
    "Missing required parameter: 'model'": {"model": None},
}


@pytest.mark.parametrize("message", OF_OLLAMA)
def test_ollama(server: RunningServer, message: str):
    body = {"model": "tiny", **only(), "stream": False, **OF_OLLAMA[message]}
    if body["model"] is None:
        del body["model"]
    reply = server.send("/api/chat", body)
    assert (reply.status, reply.json()["error"]) == (400, message)


def test_ollama_generate(server: RunningServer):
    for fields, message in (
        ({"images": ["?"]}, "images[0]: is not base64 of an image file"),
        ({"prompt": 5}, "prompt: give a text"),
        ({"raw": True}, "raw: give false"),
        ({"context": [1]}, "context: must be empty"),
    ):
        body = {"model": "tiny", "prompt": "Hi", **fields}
        reply = server.send("/api/generate", body)
        assert (reply.status, reply.json()["error"]) == (400, message)


def test_the_whole_body(server: RunningServer):
    for body in (b"[]", b"5", b"null", b'"text"'):
        reply = server.send("/v1/chat/completions", body)
        error = reply.json()["error"]
        assert error["message"] == "the body: give an object" and not error["param"]


@pytest.mark.parametrize("digits", [300, 310, 1000, 4000, 4300, 4301, 9000])
def test_numbers_of_many_digits(server: RunningServer, digits: int):
    number = b"9" * digits
    asked = b'{"model":"tiny","messages":[{"role":"user","content":"Hi"}],'
    for field in (
        *("max_tokens", "max_completion_tokens", "top_k", "seed", "n", "top_logprobs"),
        *("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"),
    ):
        for sign in (b"", b"-"):
            body = asked + b'"%s":%s}' % (field.encode(), sign + number)
            reply = server.send("/v1/chat/completions", body)
            assert reply.status == 400, (field, reply.body[:200])
            message = reply.json()["error"]["message"]
            assert field in message or "too many digits" in message
        options = b'{"model":"tiny","prompt":"Hi","options":{"num_predict":1,"%s":%s}}'
        reply = server.send("/api/generate", options % (field.encode(), number))
        assert reply.status in (200, 400), (field, reply.body[:200])


def test_numbers_at_the_edge(server: RunningServer):
    asked = b'{"model":"tiny","messages":[{"role":"user","content":"Hi"}],%s}'
    for status, fields in (
        (200, b'"max_tokens":2.0,"temperature":-0.0,"top_k":-0.0,"seed":-0.0'),
        (200, b'"max_tokens":2,"top_k":9223372036854775807,"temperature":1'),
        (200, b'"max_tokens":2,"top_k":-1,"temperature":1e-400'),
        (200, b'"max_tokens":9223372036854775807,"stop":["a","e","i","o"]'),
        (400, b'"max_tokens":1e400'),
        (400, b'"max_tokens":-0.0'),
        (400, b'"temperature":1e400'),
        (400, b'"top_p":-1e400'),
        (400, b'"frequency_penalty":1e400'),
        (400, b'"logit_bias":{"5":1e400}'),
        (400, b'"seed":1e400'),
    ):
        reply = server.send("/v1/chat/completions", asked % fields)
        assert reply.status == status, (fields, reply.body[:200])
