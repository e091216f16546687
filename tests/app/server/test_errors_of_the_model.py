"""What the library refuses, in words for clients of a server."""

import base64
from typing import Any

import pytest

pytest.importorskip("starlette")

from tests.support.hostile_requests import png  # noqa: E402
from tests.support.serving import RunningServer  # noqa: E402

FOREIGN = ("/reset", "tile", "--", "chat", "200 mega")


def message(reply: Any) -> str:
    assert reply.status == 400
    error = reply.json()["error"]
    return error if isinstance(error, str) else error["message"]


def test_a_full_context(server: RunningServer):
    text = "word " * 20000
    for reply in (
        server.ask(text),
        server.send("/api/generate", {"model": "tiny", "prompt": text}),
    ):
        said = message(reply)
        assert said.startswith("the question needs 40") and " tokens of context" in said
        assert " are left; shorten the text" in said
        assert said.endswith("fewer or smaller images")
        assert not any(word in said for word in FOREIGN)


@pytest.mark.parametrize("size", [(11_000, 10_000), (60_000, 60_000)])
def test_an_image_that_is_too_large(server: RunningServer, size: tuple[int, int]):
    data = base64.b64encode(png(*size)).decode()
    body = {"model": "tiny", "prompt": "Hi", "images": [data]}
    said = message(server.send("/api/generate", body))
    assert "100 megapixels" in said
    assert not any(word in said for word in FOREIGN)


def test_what_is_no_image_names_the_servers_limit(server: RunningServer):
    data = base64.b64encode(b"no image at all").decode()
    body = {"model": "tiny", "prompt": "Hi", "images": [data]}
    said = message(server.send("/api/generate", body))
    assert "image" in said and not any(word in said for word in FOREIGN)


def test_tokens_are_counted_by_the_newer_name(server: RunningServer):
    for newer, older in ((2, 6), (6, 2)):
        reply = server.ask(max_completion_tokens=newer, max_tokens=older)
        assert reply.json()["usage"]["completion_tokens"] == newer
    assert server.ask(max_tokens=3).json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("temperature", [1e-40, 5e-324, 1e-310, 1e-7, 0, -0.0])
def test_the_coldest_temperatures_are_greedy(server: RunningServer, temperature: float):
    options: dict[str, Any] = {"seed": 3, "max_tokens": 12}
    wanted = server.ask(max_tokens=12).json()["choices"][0]["message"]["content"]
    cold = server.ask(temperature=temperature, **options).json()
    assert cold["choices"][0]["message"]["content"] == wanted
    warm = server.ask(temperature=2, **options).json()
    assert warm["choices"][0]["message"]["content"] != wanted
    asked = {
        "model": "tiny",
        "stream": False,
        "messages": [{"role": "user", "content": "Say something."}],
        "options": {"temperature": temperature, "seed": 3, "num_predict": 12},
    }
    assert server.send("/api/chat", asked).json()["message"]["content"] == wanted
