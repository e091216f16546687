"""How clients of several programs learn that the model takes images, and its name."""

from pathlib import Path

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server import serve  # noqa: E402
from fastvlm_mlx.app.server.api import model_list  # noqa: E402
from fastvlm_mlx.app.server.engine.load import load_engine  # noqa: E402
from fastvlm_mlx.app.server.engine.request import ModelInfo  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.errors import OptionError  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402

NEITHER = {"vision": False, "audio": False}
TEXT_ONLY = ModelInfo("words", 4096, "qwen2", 10**9, 10**9, 4, vision=False)


def test_the_model_sees_in_every_list(server: RunningServer):
    entry = server.send("/v1/models").json()["data"][0]
    assert "image" in entry["input_modalities"]
    assert "image" in entry["architecture"]["input_modalities"]
    assert entry["architecture"]["modality"] == "text+image->text"
    assert entry["capabilities"]["vision"] is True
    assert entry["capabilities"]["image_input"] == {"supported": True}
    assert server.send("/v1/models/tiny").json() == entry
    lm_studio = server.send("/api/v0/models").json()["data"][0]
    assert lm_studio["type"] == "vlm" and lm_studio["state"] == "loaded"
    assert server.send("/api/v0/models/tiny").json() == lm_studio
    newer = server.send("/api/v1/models").json()["models"][0]
    assert newer["key"] == "tiny" and newer["capabilities"]["vision"] is True
    props = server.send("/props?model=tiny").json()
    assert props["modalities"] == {"vision": True, "audio": False}
    assert server.send("/props").json() == props
    length = props["default_generation_settings"]["n_ctx"]
    assert length > 100
    for value in (
        entry["max_model_len"],
        entry["context_length"],
        entry["meta"]["n_ctx"],
        lm_studio["max_context_length"],
        newer["loaded_instances"][0]["config"]["context_length"],
    ):
        assert value == length
    shown = server.send("/api/show", {"model": "tiny"}).json()
    assert "vision" in shown["capabilities"]


def test_a_model_without_an_encoder_does_not_see():
    entry = model_list.model(TEXT_ONLY, 0)
    assert entry["input_modalities"] == ["text"]
    assert model_list.lm_studio_model(TEXT_ONLY)["type"] == "llm"
    assert model_list.lm_studio_model(TEXT_ONLY)["quantization"] == "4bit"
    assert model_list.props(TEXT_ONLY)["modalities"] == NEITHER


def test_unknown_names_are_refused_in_the_protocols_shape(server: RunningServer):
    for path in ("/v1/models/x", "/api/v0/models/x", "/props?model=x"):
        reply = server.send(path)
        assert reply.status == 404
        assert reply.json()["error"]["code"] == "model_not_found"


def test_lm_studios_own_path_of_chats(server: RunningServer):
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 4}
    reply = server.send("/api/v0/chat/completions", body).json()
    wanted = server.ask("Hi").json()["choices"][0]["message"]
    assert reply["choices"][0]["message"] == wanted
    refused = server.send("/api/v0/chat/completions", {**body, "n": 2})
    assert refused.status == 400 and refused.json()["error"]["param"] == "n"


def test_any_name_stands_for_the_model(reference: Path):
    with running(reference / "llava-mini", any_name=True) as server:
        for name in ("gpt-4o-mini", "", "llava:7b", "tiny"):
            reply = server.ask(model=name)
            assert reply.status == 200 and reply.json()["model"] == name
        body = {"model": "claude", "max_tokens": 2, "messages": []}
        body["messages"] = [{"role": "user", "content": "Hi"}]
        assert server.send("/v1/messages", body).json()["model"] == "claude"
        assert server.send("/api/show", {"model": "minicpm-v"}).status == 200
        assert [m["id"] for m in server.send("/v1/models").json()["data"]] == ["tiny"]


def test_the_served_name(reference: Path):
    model = str(reference / "llava-mini")
    for name, wanted in ((None, "llava-mini"), ("gpt-4o-mini", "gpt-4o-mini")):
        engine = load_engine(model, Limits(), served_name=name)
        assert [info.name for info in engine.models()] == [wanted]


def test_the_names_come_from_the_command_line(run, monkeypatch):
    found: list[serve.Options] = []
    monkeypatch.setattr(serve, "run", found.append)
    run("serve", "--served-name", "gpt-4o-mini", "--any-model-name")
    run("serve")
    assert [(one.served_name, one.any_model_name) for one in found] == [
        ("gpt-4o-mini", True),
        (None, False),
    ]


@pytest.mark.parametrize("name", ["", " a", "a\n", "a" * 101])
def test_names_that_no_client_can_write(name: str):
    options = serve.Options(None, "127.0.0.1", 0, None, served_name=name)
    with pytest.raises(OptionError, match="^--served-name .*: give 1 to 100 printable"):
        serve.run(options)
