"""Tokens, names, origins, headers, logs and errors of the server."""

import asyncio
import http.client
import json
import logging
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app import cli  # noqa: E402
from fastvlm_mlx.app.server import serve
from fastvlm_mlx.app.server.http import uvicorn_protocol  # noqa: E402
from fastvlm_mlx.app.server.http.errors import api_error_from  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.errors import FastVLMError, OptionError  # noqa: E402
from fastvlm_mlx.files.installation import install_command  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402


def test_other_machines_need_a_token(monkeypatch):
    monkeypatch.delenv(serve.TOKEN, raising=False)
    for host in ("0.0.0.0", "::", "192.168.0.5", "example.com"):
        with pytest.raises(OptionError, match="need a token; set FASTVLM_TOKEN"):
            serve.read_token(serve.Options(None, host, 0, None))
        assert serve.read_token(serve.Options(None, host, 0, "abc")) == "abc"
    for host in ("127.0.0.1", "::1", "[::1]", "localhost", "127.8.8.8"):
        assert serve.read_token(serve.Options(None, host, 0, None)) is None
    for token in ("", " a", "a\n", "\u00e9"):
        with pytest.raises(OptionError, match="^token: "):
            serve.read_token(serve.Options(None, "127.0.0.1", 0, token))
    monkeypatch.setenv(serve.TOKEN, "from-outside")
    options = serve.Options(None, "0.0.0.0", 0, None)
    assert serve.read_token(options) == "from-outside"


def test_names_that_a_host_header_may_say():
    local = serve.known_names(serve.Options(None, "127.0.0.1", 0, None))
    assert set(local) == {"127.0.0.1", "localhost", "[::1]"}
    options = serve.Options(None, "0.0.0.0", 0, "t", allow_host=("My.Name",))
    names = serve.known_names(options)
    assert "my.name" in names and socket.gethostname().lower() in names
    given = ("a.example:8080", "::1", "[0:0::2]:80", "::0003")
    names = serve.known_names(serve.Options(None, "0:0::1", 0, None, allow_host=given))
    assert set(names) == {*local, "a.example", "[::2]", "[::3]"}
    for name in ("a b", "http://a", "[::1]a", "a@b", ""):
        options = serve.Options(None, "127.0.0.1", 0, None, allow_host=(name,))
        with pytest.raises(OptionError, match="--allow-host .*: no host name; give"):
            serve.known_names(options)


def test_what_is_wrong_is_one_line(capsys, monkeypatch):
    def end(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit:
            cli.main(["serve", *arguments])
        assert exit.value.code == 1
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1
        return shown.err

    assert "clients need a token" in end("--host", "0.0.0.0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1 port {port}: address already in use" in end("--port", port)
    assert "no such model" in end("--port", "0", "-m", "nothing")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert end() == (
        "error: starlette: not installed, and serve needs it;"
        f" {install_command('serve')}\n"
    )


def test_a_port_is_released(reference):
    with serve.listen("127.0.0.1", 0) as link:
        port = link.getsockname()[1]
        with pytest.raises(FastVLMError, match="choose another --host or --port"):
            serve.listen("127.0.0.1", port)
    serve.listen("127.0.0.1", port).close()


def test_tokens_guard_what_answers_and_not_the_page(reference):
    with running(reference / "llava-mini", token="right") as server:
        for path in ("/v1/models", "/api/tags", "/v1/nothing"):
            assert server.send(path).status == 401
            assert server.send(path, authorization="Bearer wrong").status == 401
            reply = server.send(path, authorization="Bearer right")
            assert reply.status == (404 if path.endswith("nothing") else 200)
        reply = server.send("/v1/models")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json()["error"]["code"] == "invalid_api_key"
        assert "token" in server.send("/api/tags").json()["error"]
        assert server.send("/health").status == 200
        assert server.send("/openapi.json").status == 200
        assert server.send("/").status in (200, 404)


def test_origins(server: RunningServer):
    own = {"origin": server.url, "sec_fetch_site": "same-origin"}
    asked = {"model": "tiny", "prompt": "Hi", "options": {"num_predict": 1}}
    assert server.send("/api/generate", asked, **own).status == 200
    assert server.send("/", sec_fetch_site="cross-site").status in (200, 404)
    preflight = server.send("/api/chat", method="OPTIONS", origin="http://evil.example")
    assert preflight.status == 403
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_every_response_is_strict(server: RunningServer):
    for path in ("/", "/health", "/v1/models", "/nothing"):
        headers = server.send(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "server" not in headers


def test_errors_nobody_foresaw_say_nothing():
    assert (
        api_error_from(KeyError("a secret")).message == "the server failed (KeyError)"
    )
    assert api_error_from(MemoryError()).status == 503
    assert (
        api_error_from(RuntimeError("[malloc] Unable to allocate 9 bytes")).status
        == 503
    )


def test_an_answer_that_fails_is_an_error_not_the_end(server, monkeypatch, caplog):
    from fastvlm_mlx.app.server.engine.engine import Engine

    def fail(self: Any, request: Any, cancel: Any):
        raise KeyError("the-secret")

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(Engine, "stream", fail)
        reply = server.ask()
    assert reply.status == 500 and reply.json()["error"]["type"] == "server_error"
    assert "the-secret" not in caplog.text + json.dumps(reply.json())
    assert "KeyError" in caplog.text
    assert server.ask().status == 200


def test_a_reader_that_stops_reading_is_cut():
    import uvicorn

    cut: list[bool] = []

    class Transport(asyncio.Transport):
        def abort(self):
            cut.append(True)

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return default

        def is_closing(self) -> bool:
            return False

    async def read_nothing():
        kind = uvicorn_protocol.protocol_with_timeouts(
            Limits(idle_time=0.05, header_time=9)
        )
        config = uvicorn.Config(lambda *_: None, log_config=None, lifespan="off")
        from uvicorn.server import ServerState

        link = kind(config, ServerState(), {})
        link.connection_made(Transport())
        link.pause_writing()
        link.resume_writing()
        await asyncio.sleep(0.1)
        assert not cut
        link.pause_writing()
        await asyncio.sleep(0.1)
        link.connection_lost(OSError())

    asyncio.run(read_nothing())
    assert cut


def test_help_of_serve_imports_nothing_heavy():
    script = (
        "import sys\nfrom fastvlm_mlx.app import cli\n"
        "try: cli.main(['serve', '--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('mlx', 'starlette', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]" and done.stderr == ""


def test_the_command_serves_until_interrupted(reference):
    """The program itself logs one line when it is ready and one for each request."""
    model = str(reference / "llava-mini")
    script = f"from fastvlm_mlx.app.cli import main; main(['serve', '-m', {model!r}"
    with subprocess.Popen(
        [sys.executable, "-c", f"{script}, '--port', '0'])"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stderr is not None and program.stdout is not None
        line = program.stderr.readline()
        assert line.startswith("llava-mini is served at http://127.0.0.1:")
        port = int(line.split(":")[2].split("/")[0])
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = {"model": "llava-mini", "prompt": "a-secret", "stream": False}
        link.request("POST", "/api/generate?x=a-secret", json.dumps(body))
        assert json.load(link.getresponse())["done"]
        link.close()
        program.send_signal(signal.SIGINT)
        shown = program.stderr.read()
        assert program.wait(20) == 0 and program.stdout.read() == ""
    assert "POST /api/generate 200" in shown and shown.count("\n") == 1
    assert "a-secret" not in shown
