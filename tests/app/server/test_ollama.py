"""The real `ollama` package against the server."""

from collections.abc import Iterator
from typing import Any

import pytest

ollama = pytest.importorskip("ollama")

from tests.support.serving import RunningServer  # noqa: E402

PROMPT = "Describe the image."


@pytest.fixture
def llama(server: RunningServer) -> Iterator[Any]:
    client = ollama.Client(host=server.url)
    yield client
    client._client.close()


def test_ollama_chat_says_what_chat_says(llama, tiny_model, coffee):
    wanted = tiny_model.ask(PROMPT, coffee, max_tokens=16)
    question = {"role": "user", "content": PROMPT, "images": [str(coffee)]}
    asked = {"model": "tiny:latest", "messages": [question]}
    options = {"num_predict": 16, "num_ctx": 4096}
    whole = llama.chat(**asked, options=options)
    assert whole.message.content == wanted and whole.message.role == "assistant"
    assert whole.done and whole.done_reason == "length"
    assert (whole.prompt_eval_count, whole.eval_count) == (51, 16)
    assert whole.total_duration > 0 and whole.eval_duration > 0
    pieces = list(llama.chat(**asked, options=options, stream=True))
    assert "".join(piece.message.content for piece in pieces) == wanted
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count == 16


def test_ollama_generate_says_what_chat_says(llama, tiny_model, coffee):
    wanted = tiny_model.ask(PROMPT, coffee, system="Be brief.", max_tokens=16)
    asked = {
        "model": "tiny",
        "prompt": PROMPT,
        "system": "Be brief.",
        "images": [coffee.read_bytes()],
        "options": {"num_predict": 16},
    }
    assert llama.generate(**asked).response == wanted
    pieces = list(llama.generate(**asked, stream=True))
    assert "".join(piece.response for piece in pieces) == wanted
    assert pieces[-1].done_reason == "length"


def test_ollama_knows_the_model(server, llama):
    assert [model.model for model in llama.list().models] == ["tiny"]
    shown = llama.show("tiny")
    assert "vision" in (shown.capabilities or [])
    assert llama.ps().models[0].model == "tiny"
    assert llama.generate(model="tiny", prompt="").done_reason == "load"
    assert llama.chat(model="tiny", messages=[]).done_reason == "load"
    assert server.send("/api/version").json()["version"]


def test_ollama_refuses_in_its_own_words(server, llama):
    for status, change in (
        (404, {"model": "llama3"}),
        (400, {"think": True}),
        (400, {"messages": [{"role": "user", "content": "Hi", "images": ["?"]}]}),
        (400, {"messages": [{"role": "assistant", "content": "Hi"}]}),
    ):
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
        with pytest.raises(ollama.ResponseError) as caught:
            llama.chat(**{**asked, **change})
        assert caught.value.status_code == status and caught.value.error
    # As Ollama: what it does not know is ignored.
    body = {"model": "tiny", "prompt": "Hi", "unheard_of": 1, "stream": False}
    body["options"] = {"num_predict": 2.0, "mirostat": 1, "seed": -1}
    assert server.send("/api/generate", body).json()["eval_count"] == 2
