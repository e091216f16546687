"""Requests as clients write them: lenient spellings that mean the same."""

import base64
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.api.image_data import from_base64, from_url  # noqa: E402
from fastvlm_mlx.app.server.engine.request import names_model  # noqa: E402
from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402
from tests.support.serving import Response, RunningServer  # noqa: E402

DATA = bytes(range(256)) * 2 + b"\xfb\xff\xfe?"
PLAIN = base64.b64encode(DATA).decode()

SPELLINGS: dict[str, Callable[[str], str]] = {
    "line feeds": lambda text: "\n".join(textwrap.wrap(text, 76)),
    "CRLF": lambda text: "\r\n".join(textwrap.wrap(text, 76)) + "\r\n",
    "spaces": lambda text: f" {text[:9]} \t{text[9:]} ",
    "no padding": lambda text: text.rstrip("="),
    "URL-safe": lambda text: text.replace("+", "-").replace("/", "_"),
    "URL-safe without padding": lambda text: (
        text.replace("+", "-").replace("/", "_").rstrip("=")
    ),
}
HEADS = [
    "data:image/png;base64,",
    "DATA:image/png;base64,",
    "data:IMAGE/PNG;BASE64,",
    "data:image/png; base64,",
    "data: image/png ;\tbase64 ,",
    "  data:image/png;base64,",
    "data:;base64,",
    "data:image/png;charset=utf-8;base64,",
    "data:image/svg+xml;charset=utf-8;name=a.png;base64,",
    'data:image/png;name="a, b.png";base64,',
    "data:image/png;name=" + "a" * 1000 + ";base64,",
    "data:base/vnd.x.y-z!#$&^_;base64,",
]


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_base64(name: str, size: int):
    data = DATA[: len(DATA) - size]
    text = SPELLINGS[name](base64.b64encode(data).decode())
    assert from_base64(text, "image") == data
    assert from_url(f"data:image/png;base64,{text}", "url") == data


@pytest.mark.parametrize("head", HEADS)
def test_spellings_of_data_urls(head: str):
    assert from_url(head + PLAIN, "url") == DATA
    assert from_url(head + quote(PLAIN, safe=""), "url") == DATA
    assert from_base64(head + PLAIN, "image") == DATA  # Ollama's clients, by mistake


def test_what_is_no_image():
    for text in ("", "====", "A", "AAAAA", "AA=A", "A!AA", "\u00e9AAA", "data:,AAAA"):
        with pytest.raises(APIError, match=r"^images\[3\]: "):
            from_base64(text, "images[3]")
    for url in (
        *("data:", "data:image/png;base64", "data:image/png;base64,", "data:base64,AA"),
        *("data:image/png;base65,AAAA", "file:///etc/passwd", "", "AAAA", "//a/b"),
        *('data:image/png;name=",;base64,AAAA', "data:;base64,data:;base64,AAAA"),
    ):
        with pytest.raises(APIError, match="^the url: "):
            from_url(url, "the url")
    assert from_url(" HTTPS://a/b ", "url") == "HTTPS://a/b"


def said(reply: Response) -> str:
    assert reply.status == 200, reply.body
    answer = reply.json()
    return answer["choices"][0]["message"]["content"]


def test_an_image_in_all_places(server: RunningServer, coffee: Path):
    data = base64.b64encode(coffee.read_bytes()).decode()
    url = f"data:image/png;base64,{data}"
    text = {"type": "text", "text": "Describe the image."}

    def ask(*parts: dict[str, Any]) -> str:
        return said(server.ask(messages=[{"role": "user", "content": list(parts)}]))

    wanted = ask(text, {"type": "image_url", "image_url": {"url": url}})
    for part in (
        {"type": "image_url", "image_url": url},
        {"type": "image_url", "image_url": {"url": url, "detail": None}},
        {"type": "image_url", "image_url": {"url": url, "format": "image/png"}},
        {"type": "input_image", "image_url": url, "detail": "auto", "file_id": None},
        {"type": "image_url", "image_url": url, "cache_control": {"type": "ephemeral"}},
    ):
        assert ask(text, part) == wanted
        assert ask({**text, "type": "input_text"}, part) == wanted
    question = {"role": "user", "content": text["text"], "images": [url]}
    options = {"num_predict": 4}
    body = {"model": "tiny", "stream": False, "messages": [question]}
    reply = server.send("/api/chat", {**body, "options": options})
    assert reply.json()["message"]["content"] == wanted


# The parameters of OpenAI's chat.completions.create, and values that change nothing.
HARMLESS: dict[str, list[Any]] = {
    "audio": [],
    "frequency_penalty": [0, 0.0, -0.0],
    "function_call": ["none", "auto"],
    "functions": [[]],
    "logit_bias": [{}],
    "logprobs": [False],
    "max_completion_tokens": [4.0],
    "max_tokens": [4.0],
    "metadata": [{}, {"a": "b"}, {"a": 1}],
    "modalities": [["text"]],
    "moderation": [],
    "n": [1, 1.0],
    "parallel_tool_calls": [True, False],
    "prediction": [{"type": "content", "content": "Hi"}],
    "presence_penalty": [0],
    "prompt_cache_key": ["a"],
    "prompt_cache_retention": ["24h"],
    "reasoning_effort": ["none"],
    "response_format": [{"type": "text"}],
    "safety_identifier": ["a"],
    "seed": [5.0],
    "service_tier": ["auto", "default"],
    "stop": [[]],
    "store": [False, True],
    "stream": [False],
    "stream_options": [],
    "temperature": [0],
    "tool_choice": ["none", "auto"],
    "tools": [[]],
    "top_logprobs": [0, 0.0],
    "top_p": [1],
    "user": ["me"],
    "verbosity": ["medium"],
    "web_search_options": [],
    "a_field_of_next_year": [],
}


@pytest.mark.parametrize("field", HARMLESS)
def test_fields_that_change_nothing(server: RunningServer, field: str):
    wanted = said(server.ask())
    for value in (None, *HARMLESS[field]):
        asked: dict[str, Any] = {"max_completion_tokens": 4, field: value}
        assert said(server.ask(**asked)) == wanted, value


def test_tools_that_are_not_to_be_called(server: RunningServer):
    wanted = said(server.ask())
    tool = {"type": "function", "function": {"name": "look"}}
    assert said(server.ask(tools=[tool], tool_choice="none")) == wanted
    assert said(server.ask(functions=[{"name": "a"}], function_call="none")) == wanted
    for fields in (
        {"tools": [tool], "function_call": "none"},
        {"functions": [{"name": "look"}], "tool_choice": "none"},
        {"tools": [tool], "tool_choice": None},
    ):
        assert server.ask(**fields).status == 400, fields


def test_all_fields_of_the_openai_package_as_null(server: RunningServer):
    completions = pytest.importorskip("openai.types.chat.completion_create_params")
    fields = set(completions.CompletionCreateParamsBase.__annotations__)
    fields -= {"model", "messages"}
    assert len(fields) > 25
    nothing: dict[str, Any] = dict.fromkeys(fields)
    assert said(server.ask(**nothing)) == said(server.ask(max_tokens=512))


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "A cat.", "tool_calls": []},
        {"content": "A cat.", "tool_calls": None, "function_call": None},
        {"content": "A cat.", "refusal": None, "audio": None, "annotations": []},
        {"content": "A cat.", "reasoning_content": None, "reasoning": "Hm."},
        {"content": "A cat.", "name": "bot", "unheard_of": None},
        {"content": [{"type": "text", "text": "A cat."}]},
        {"content": [{"type": "output_text", "text": "A cat."}]},
        {"content": [{"type": "refusal", "refusal": "A cat."}]},
    ],
)
def test_answers_in_histories(server: RunningServer, answer: dict[str, Any]):
    def history(**fields: Any) -> list[dict[str, Any]]:
        return [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": "Hi", "name": "me"},
            {"role": "assistant", **fields},
            {"role": "user", "content": [{"type": "text", "text": "And?"}]},
        ]

    wanted = said(server.ask(messages=history(content="A cat.")))
    assert said(server.ask(messages=history(**answer))) == wanted


def test_empty_answers_in_histories(server: RunningServer):
    def ask(**fields: Any) -> str:
        history = [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", **fields},
            {"role": "user", "content": "And?"},
        ]
        return said(server.ask(messages=history))

    wanted = ask(content="")
    for fields in ({"content": None}, {"content": []}, {}, {"tool_calls": []}):
        assert ask(**fields) == wanted


def test_what_ollamas_clients_leave_empty(server: RunningServer):
    def ask(path: Any = "/api/chat", **fields: Any) -> Any:
        body = {"model": "tiny", "stream": False, "options": {"num_predict": 4}}
        reply = server.send(path, {**body, **fields})
        assert reply.status == 200, reply.body
        answer = reply.json()
        return answer.get("response") or answer["message"]["content"]

    message = {"role": "user", "content": "Hi"}
    wanted = ask(messages=[message])
    empty = {"images": None, "tool_calls": [], "thinking": None, "tool_name": None}
    for fields in (
        {"messages": [{**message, **empty}]},
        {"messages": [{**message, "images": []}]},
        {"tools": [], "think": False, "format": "", "keep_alive": "5m"},
        {"tools": None, "think": None, "format": None, "keep_alive": -1},
        {"keep_alive": 0, "options": {"num_predict": 4.0, "stop": None, "top_k": -1}},
    ):
        asked: dict[str, Any] = {"messages": [message], **fields}
        assert ask(**asked) == wanted
    empty = {"suffix": "", "template": "", "context": [], "raw": False, "system": ""}
    assert ask("/api/generate", prompt="Hi", images=None, **empty) == wanted
    nothing: dict[str, Any] = dict.fromkeys(
        ["suffix", "template", "context", "raw", "system"]
    )
    assert ask("/api/generate", prompt="Hi", images=[], **nothing) == wanted
    reply = server.send("/api/generate", {"model": "tiny", "prompt": None})
    assert reply.json()["done_reason"] == "load"
    stop = {"num_predict": 4, "stop": "never said"}
    assert ask(messages=[message], options=stop) == wanted


@pytest.mark.parametrize("keep_alive", [0, 0.0, -0.0, "0", "0s", "0m0s", "-0h", "0.0s"])
def test_unloading_is_answered(server: RunningServer, keep_alive: Any):
    for path, empty in (("generate", {"prompt": ""}), ("chat", {"messages": []})):
        body = {"model": "tiny", "keep_alive": keep_alive, **empty}
        reply = server.send(f"/api/{path}", body)
        assert reply.json()["done_reason"] == "unload" and reply.json()["done"]


@pytest.mark.parametrize("keep_alive", [None, 1, -1, "5m", "0.5s", "-1", "", False, []])
def test_loading_is_answered(server: RunningServer, keep_alive: Any):
    body = {"model": "tiny", "prompt": "", "keep_alive": keep_alive}
    assert server.send("/api/generate", body).json()["done_reason"] == "load"


def test_names_of_the_model(server: RunningServer):
    for name in ("tiny", "Tiny", "TINY:latest", "default", "tiny:LATEST", " tiny "):
        assert server.ask(model=name).status == 200
    assert server.send("/v1/models/Default").status == 200
    assert server.send("/api/show", {"model": "TINY"}).status == 200
    assert names_model("0.5B", "0.5b:latest") and not names_model("1.5b", "0.5b")
    for name in ("", "gpt-4o", "tiny:7b", "tin", "default:7b"):
        reply = server.ask(model=name)
        assert reply.status == 404
        assert (
            "this server has 'tiny' (or 'default')" in reply.json()["error"]["message"]
        )
