"""Harmless extras are taken; errors of the model's side use the client's words."""

import base64
import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.api.image_data import from_url  # noqa: E402
from tests.support.serving import Response, RunningServer  # noqa: E402

NO_IMAGE = base64.b64encode(b"hello, no image").decode()


def said(reply: Response) -> str:
    assert reply.status == 200, reply.body
    return reply.json()["choices"][0]["message"]["content"]


def error_of(reply: Response) -> tuple[str, str | None]:
    error = reply.json()["error"]
    if isinstance(error, str):
        return error, None
    return error["message"], error["param"]


def test_texts_among_the_parts(server: RunningServer):
    wanted = said(server.ask("Hi\nthere"))
    part = {"type": "text", "text": "there", "annotations": []}
    for content in (["Hi", "there"], ["Hi", part], ["Hi\nthere"]):
        assert said(server.ask(messages=[{"role": "user", "content": content}]))
        messages = [{"role": "user", "content": content}]
        assert said(server.ask(messages=messages)) == wanted


def test_unknown_fields_that_say_nothing(server: RunningServer):
    wanted = said(server.ask("Hi"))
    message: dict[str, Any] = {"role": "user", "content": "Hi"}
    for extra in ({"tool_calls": []}, {"tool_call_id": ""}, {"a": {}, "b": None}):
        assert said(server.ask(messages=[{**message, **extra}])) == wanted
        assert said(server.ask("Hi", **extra)) == wanted
    assert said(server.ask("Hi", detailed_timings=None)) == wanted
    for value in (0, False, [0], " "):
        assert server.ask("Hi", unheard_of=value).status == 400


@pytest.mark.parametrize("value", [2, 0, "1", True, 1.5, [1]])
def test_one_answer_at_a_time(server: RunningServer, value: Any):
    message = "Unsupported value: 'n'; FastVLM does not support it, give 1 or null"
    reply = server.ask(n=value)
    assert reply.status == 400
    assert error_of(reply) == (f"{message} or leave it out", "n")


def test_data_urls_without_base64(coffee: Path):
    data = coffee.read_bytes()
    assert from_url(f"data:image/png,{quote(data)}", "url") == data
    encoded = base64.b64encode(data).decode()
    assert from_url(f"data:image/png;base64,{encoded}#x", "url") == data


def test_which_image_is_none(server: RunningServer, coffee: Path):
    good = base64.b64encode(coffee.read_bytes()).decode()
    fault = (
        "image of 15 bytes: not an image; give a PNG, JPEG, WebP, GIF, BMP, TIFF,"
        " AVIF or HEIC image"
    )
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": f"data:;base64,{data}"}
        for data in (good, NO_IMAGE)
    ]
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "And?"}, *parts]},
    ]
    field = "messages[1].content[2].image_url"
    assert error_of(server.ask(messages=messages)) == (f"{field}: {fault}", field)
    body = {"model": "tiny", "prompt": "Hi", "images": [good, NO_IMAGE]}
    reply = server.send("/api/generate", body)
    assert (reply.status, *error_of(reply)) == (400, f"images[1]: {fault}", None)
    parts[1]["image_url"] = {"url": "http://images.example/secret.png"}
    messages[1]["content"] = parts
    message, param = error_of(server.ask(messages=messages))
    assert param == "messages[1].content[1].image_url.url"
    assert message.startswith(f"{param}: images at images.example are not allowed")
    assert "secret" not in message


def test_json_that_does_not_fit(server: RunningServer):
    form = {"type": "json_object"}
    for name in ("max_tokens", "max_completion_tokens"):
        asked: dict[str, Any] = {"max_tokens": None, name: 1}
        message, param = error_of(server.ask(response_format=form, **asked))
        assert param == name and message.startswith(f"{name} 1: too few for JSON")
    body = {"model": "tiny", "prompt": "Hi", "options": {"num_predict": 1}}
    reply = server.send("/api/generate", {**body, "format": "json"})
    assert reply.status == 400
    assert error_of(reply)[0].startswith("options.num_predict 1: too few for JSON")


def test_schemas_that_cannot_be_followed(server: RunningServer):
    schema = {"type": "foo"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    message, param = error_of(server.ask(response_format=form))
    assert param == "response_format.json_schema.schema"
    assert message.startswith(f"{param}: cannot be followed")
    reply = server.send(
        "/api/generate", {"model": "tiny", "prompt": "Hi", "format": schema}
    )
    assert reply.status == 400
    assert error_of(reply)[0].startswith("format: cannot be followed")


def test_a_stop_text_does_not_cut_json(server: RunningServer):
    reply = server.ask(response_format={"type": "json_object"}, stop=["{", "}"])
    assert isinstance(json.loads(said(reply)), dict)
    body = {"model": "tiny", "prompt": "Hi", "format": "json", "stream": False}
    options = {"num_predict": 4, "stop": ["{", "}"]}
    reply = server.send("/api/generate", {**body, "options": options})
    assert isinstance(json.loads(reply.json()["response"]), dict)


def test_paths_and_methods(server: RunningServer):
    reply = server.send("/v1/chat/completions", method="GET")
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert error_of(reply)[0] == "/v1/chat/completions: send POST"
    reply = server.send("/api/version", {})
    assert reply.status == 405 and reply.headers["allow"] == "GET, HEAD"
    assert error_of(reply)[0] == "/api/version: send GET or HEAD"
    for path in ("/v1/completions", "/api/pull"):
        reply = server.send(path, {})
        assert reply.status == 404 and "allow" not in reply.headers
        assert error_of(reply)[0].startswith("this path is not known; /openapi.json")


def test_names_in_one_line(server: RunningServer):
    message, _ = error_of(server.ask(model="a\nb\u2028" + "c" * 5000))
    assert message.startswith("The model 'a?b?ccc") and len(message) < 200
    for body in ({}, {"model": None}):
        reply = server.send("/api/show", body)
        assert reply.status == 400
        assert error_of(reply)[0] == "Missing required parameter: 'model'"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /api/chat HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_not_http(server: RunningServer, data: bytes):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as link:
        link.sendall(data)
        reply = http.client.HTTPResponse(link)
        reply.begin()
        assert reply.status == 400
        assert reply.headers["content-type"] == "application/json"
        error = json.load(reply)["error"]
        assert error["message"] == "the request is not valid HTTP/1.1"
        assert reply.read() == b"" and link.recv(1) == b""
