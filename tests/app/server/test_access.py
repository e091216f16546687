"""The middleware of `http/access.py` by itself, and the folders of the server."""

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.responses import PlainTextResponse  # noqa: E402
from starlette.types import ASGIApp, Message, Receive, Scope, Send  # noqa: E402

from fastvlm_mlx.app.server.api.endpoints import ENDPOINTS  # noqa: E402
from fastvlm_mlx.app.server.api.openapi import describe  # noqa: E402
from fastvlm_mlx.app.server.error_responses import error_response  # noqa: E402
from fastvlm_mlx.app.server.http import access  # noqa: E402
from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402
from fastvlm_mlx.app.server.http.host import host_name  # noqa: E402
from fastvlm_mlx.app.server.routes import Routes  # noqa: E402
from tests.support.paths import ROOT  # noqa: E402


def call(app: ASGIApp, body: bytes = b"", **headers: str) -> list[Message]:
    """The messages that `app` sends for one POST of `body`."""
    sent: list[Message] = []
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/x", "headers": raw}

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message):
        sent.append(message)

    async def run():
        await app(scope, receive, send)

    asyncio.run(run())
    return sent


async def read_body(scope: Scope, receive: Receive, send: Send):
    await receive()
    await PlainTextResponse("read")(scope, receive, send)


def test_body_memory_is_limited_and_released():
    app = access.BodyMemoryMiddleware(read_body, limit=10)
    for _ in range(3):  # each is released before the next
        assert call(app, bytes(10))[0]["status"] == 200
    with pytest.raises(APIError) as caught:
        call(app, bytes(11))
    assert caught.value.status == 503 and caught.value.code == "server_busy"
    assert call(app, bytes(10))[0]["status"] == 200


def test_an_unexpected_error_is_a_500_with_the_security_headers(caplog):
    async def fail(scope: Scope, receive: Receive, send: Send):
        raise KeyError("a-secret")

    app = access.RequestLogMiddleware(fail, paths=(), error_response=error_response)
    with caplog.at_level(0):
        start, body = call(app)
    assert start["status"] == 500 and b"the server failed" in body["body"]
    names = {name.decode() for name, _ in start["headers"]}
    assert set(access.SECURITY_HEADERS) <= names
    assert "a-secret" not in caplog.text and "POST ? 500" in caplog.text


def test_access_refuses_before_the_application_runs():
    app = access.AccessMiddleware(
        PlainTextResponse("inside"),
        hosts=("localhost",),
        token="t",
        max_drain=9,
        error_response=error_response,
    )
    right: dict[str, Any] = {"host": "localhost:1", "authorization": "Bearer t"}
    assert call(app, **right)[0]["status"] == 200
    assert call(app, **{**right, "host": "evil"})[0]["status"] == 403
    assert call(app, **{**right, "origin": "http://evil"})[0]["status"] == 403
    assert call(app, **{**right, "authorization": "Bearer u"})[0]["status"] == 401


HOSTS = {
    "localhost": "localhost",
    "LOCALHOST:8080": "localhost",
    "localhost:": "localhost",
    "127.0.0.1:80": "127.0.0.1",
    "[::1]": "[::1]",
    "[::1]:8080": "[::1]",
    "[0:0:0:0:0:0:0:1]:1": "[::1]",
    "a_b.example-c.de": "a_b.example-c.de",
    "Localhost.:80": "localhost",
    "a.b.": "a.b",
    "a..": "a.",
}


@pytest.mark.parametrize("host", HOSTS)
def test_hosts(host: str):
    assert host_name(host) == HOSTS[host]


@pytest.mark.parametrize(
    "host",
    [
        *(
            "[::1]evil.com",
            "[::1].evil.com",
            "[::1",
            "::1",
            "[]",
            "[::1]]",
            "[::1]:80x",
        ),
        *("127.0.0.1:80@evil.com", "evil.com@localhost", "localhost:80:80"),
        *("localhost:::", "localhost:-1", "localhost:99999", "localhost:" + "9" * 5000),
        *("localhost ", " localhost", "localhost/", "localhost?a", "localhost#", ""),
        *(
            ".",
            ".:80",
            ":80",
            "localhost,evil.com",
            "[localhost]",
            "[::1%lo]",
            "localhost\x00",
        ),
        *("local\u0131host", "localhost:\u0661", "http://localhost", "[1.2.3.4]"),
    ],
)
def test_hosts_that_are_none(host: str):
    assert host_name(host) is None
    app = guarded(token=None)
    scope_host = host.encode("latin-1", "ignore").decode("latin-1")
    if scope_host == host:
        assert call(app, host=host)[0]["status"] == 403


def guarded(token: str | None = "right") -> ASGIApp:
    return access.AccessMiddleware(
        PlainTextResponse("inside"),
        hosts=("localhost", "[::1]", "127.0.0.1"),
        token=token,
        max_drain=9,
        error_response=error_response,
    )


def test_origins_are_the_servers_own():
    app = guarded(token=None)
    for origin in ("http://localhost:1", "https://localhost:1", "HTTP://LOCALHOST:1"):
        assert call(app, host="localhost:1", origin=origin)[0]["status"] == 200
    for origin in (
        *("http://evil.example", "null", "http://localhost", "http://localhost:2", ""),
        *("ftp://localhost:1", "file://localhost:1", "localhost:1", "http://["),
        *("http://localhost:1.evil", "http://x@localhost:1", "http://127.0.0.1:1"),
    ):
        start, body = call(app, host="localhost:1", origin=origin)
        assert start["status"] == 403 and b"origin_not_allowed" in body["body"], origin


def test_tokens_are_compared_whole():
    app = guarded()
    for sent in ("Bearer right", "bearer right", "BEARER  right "):
        assert call(app, host="localhost", authorization=sent)[0]["status"] == 200
    for sent in (
        *("", "Bearer", "Bearer ", "Bearer r", "Bearer righ", "Bearer rightx", "right"),
        *("Bearer Right", "Bearer right right", "Basic right", "Bearerright"),
    ):
        start, body = call(app, host="localhost", authorization=sent)
        assert start["status"] == 401 and b"invalid_api_key" in body["body"], sent


def test_routes_and_description_have_the_same_endpoints():
    assert all(callable(getattr(Routes, one.handler)) for one in ENDPOINTS)
    described = {
        (path, method.upper())
        for path, methods in describe()["paths"].items()
        for method in methods
    }
    assert described == {(e.path.replace(":path", ""), e.method) for e in ENDPOINTS}


def test_each_folder_imports_only_folders_below_it():
    server = ROOT / "app" / "server"
    below = {"http": {"http"}, "engine": {"http", "engine"}}
    below["api"] = {"http", "engine", "api"}
    for folder, allowed in below.items():
        for file in (server / folder).glob("*.py"):
            assert _imported(file) <= allowed, file


def _imported(file: Path) -> set[str]:
    """The parts of app/server that `file` imports, function-level imports too."""
    package = "fastvlm_mlx.app.server."
    return {
        f"{node.module}.{name.name}".removeprefix(package).split(".")[0]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
        if f"{node.module}.".startswith(package)
    }
