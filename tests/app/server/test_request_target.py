"""Request targets that are whole URLs, as clients write them to a proxy."""

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from starlette.types import Receive, Scope, Send  # noqa: E402

from fastvlm_mlx.app.server.http.request_target import (  # noqa: E402
    RequestTargetMiddleware,
)
from tests.support.serving import RunningServer, running  # noqa: E402

TOKEN = "a-token"


@pytest.fixture(scope="module")
def server(reference: Path):
    with running(reference / "hf-mini", token=TOKEN) as started:
        yield started


def seen(raw_path: bytes, kind: str = "http") -> Scope:
    """The scope that an application gets for a request with a Host of its own."""
    found: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send):
        found.append(scope)

    headers = [(b"a", b"1"), (b"host", b"sent")]
    scope = {"type": kind, "raw_path": raw_path, "path": "?", "headers": headers}
    asyncio.run(RequestTargetMiddleware(app)(scope, None, None))  # pyright: ignore
    assert scope["headers"] is headers and headers[1] == (b"host", b"sent")
    return found[0]


@pytest.mark.parametrize(
    ("target", "host", "path"),
    [
        (b"http://localhost:8000/v1/models", b"localhost:8000", "/v1/models"),
        (b"HTTPS://LocalHost/a%20b/http://x/", b"LocalHost", "/a b/http://x/"),
        (b"http://[::1]:80", b"[::1]:80", "/"),
        (b"http://localhost/", b"localhost", "/"),
        (b"http://a@localhost/x", b"a@localhost", "/x"),
        (b"http:///x", b"", "/x"),
    ],
)
def test_a_whole_url(target: bytes, host: bytes, path: str):
    scope = seen(target)
    assert scope["path"] == path
    assert scope["raw_path"] == (target.partition(b"//")[2][len(host) :] or b"/")
    assert scope["headers"] == [(b"host", host), (b"a", b"1")]


@pytest.mark.parametrize(
    "target",
    [b"/v1/models", b"/http://x/y", b"*", b"ftp://a/b", b"http:/a", b"ahttp://a/"],
)
def test_other_targets_stay(target: bytes):
    scope = seen(target)
    assert (scope["path"], scope["raw_path"]) == ("?", target)
    assert scope["headers"][1] == (b"host", b"sent")


def test_what_is_no_request_stays():
    assert seen(b"http://a/b", "lifespan")["path"] == "?"


def test_the_rules_hold_for_the_host_of_the_target(server: RunningServer):
    def status(target: str, **headers: str) -> int:
        return server.send(target, **headers).status

    bearer = f"Bearer {TOKEN}"
    models = f"{server.url}/v1/models"
    listed = server.send(models, authorization=bearer)
    assert listed.status == 200 and listed.json()["data"][0]["id"] == "tiny"
    assert status(models) == 401
    assert status(f"{server.url}/health?x=/v1/") == 200
    assert status(server.url) == 200  # the page
    assert status("http://localhost./health") == 200
    # The header counts for nothing beside it, as RFC 9112 has it.
    assert status(models, authorization=bearer, host="evil.example") == 200
    for other in ("http://evil.example", "http://localhost.evil", "http://localhost.."):
        assert status(f"{other}/health", host="localhost") == 403
    assert status("http://x@localhost/health", host="localhost") == 403
    assert status(f"{server.url}/nowhere", authorization=bearer) == 404


def test_a_dot_behind_the_name(server: RunningServer):
    for host, expected in (("localhost.", 200), ("LOCALHOST.:80", 200), (".", 403)):
        assert server.send("/health", host=host).status == expected
    assert server.send("/v1/models", host="localhost.").status == 401
    page = "http://localhost."
    sent = {"host": "localhost.", "authorization": f"Bearer {TOKEN}"}
    assert server.send("/v1/models", origin=page, **sent).status == 200
    assert server.send("/v1/models", origin="http://evil.", **sent).status == 403
