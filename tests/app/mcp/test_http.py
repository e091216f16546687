"""Streamable HTTP: the SDK's client, and the access rules of `serve`."""

import asyncio
import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from fastvlm_mlx import load
from fastvlm_mlx.app.mcp import http as transport
from fastvlm_mlx.app.server import serve
from fastvlm_mlx.errors import OptionError
from tests.support.mcp_tools import CountingWorker, make_server, text, use

FIRST = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@contextlib.contextmanager
def serving(
    worker: CountingWorker, root: Path, token: str | None = None
) -> Iterator[int]:
    """The port of 127.0.0.1 where the tools are served."""
    listener = serve.listen("127.0.0.1", 0)
    options = serve.Options(None, "127.0.0.1", 0, token)
    app, requests = transport.build(
        make_server(worker, root),
        worker.limits,
        hosts=serve.known_names(options),
        token=token,
    )
    server = serve.make_server(app, worker.limits, stop=requests.close)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def post(port: int, body: Any = None, path: str = "/mcp", **headers: str) -> Any:
    """The status and the body of one request."""
    data = body if isinstance(body, bytes) else json.dumps(body or FIRST).encode()
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    named = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    with contextlib.closing(link):
        link.request("POST", path, data, named)
        answer = link.getresponse()
        return answer.status, answer.read().decode()


@pytest.fixture
def port(worker: CountingWorker, root: Path) -> Iterator[int]:
    with serving(worker, root) as number:
        yield number


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_client_asks_over_http(port: int, tiny: str, coffee: Path, mode: str):
    seen: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append(progress)

    async def ask(client: Client) -> Any:
        assert len((await client.list_tools()).tools) == 5
        given = {"image": "coffee.png", "question": "What?", "max_tokens": 6}
        return await client.call_tool("ask_image", given, progress_callback=note)

    answer = use(f"http://127.0.0.1:{port}/mcp", ask, mode)
    assert text(answer) == load(tiny).ask("What?", coffee, max_tokens=6)
    assert seen[0] == 0


def test_a_client_that_leaves_ends_its_answer(port: int, worker: CountingWorker):
    endless = {"type": "array", "items": {"type": "integer"}, "minItems": 400}
    begun = threading.Event()
    worker.ended.clear()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        if progress:  # not the reading of the image
            begun.set()

    async def leave() -> None:
        async with Client(f"http://127.0.0.1:{port}/mcp", mode="auto") as client:
            given = {"image": "coffee.png", "schema": endless, "max_tokens": 3000}
            task = asyncio.create_task(
                client.call_tool("extract", given, progress_callback=note)
            )
            assert await asyncio.to_thread(begun.wait, 20)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(worker.ended.wait, 20)

    asyncio.run(leave())
    deadline = time.monotonic() + 20
    while worker.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_token_is_asked_for(worker: CountingWorker, root: Path):
    with serving(worker, root, token="s3cret") as port:
        assert post(port)[0] == 401
        assert post(port, authorization="Bearer wrong")[0] == 401
        status, body = post(port, authorization="Bearer s3cret")
        assert status == 200 and "serverInfo" in body

        async def ask() -> int:
            headers = {"Authorization": "Bearer s3cret"}
            async with httpx2.AsyncClient(headers=headers) as http_client:
                url = f"http://127.0.0.1:{port}/mcp"
                link = streamable_http_client(url, http_client=http_client)
                async with Client(link) as client:
                    return len((await client.list_tools()).tools)

        assert asyncio.run(ask()) == 5


def test_pages_of_other_sites_and_other_names_are_refused(port: int):
    status, body = post(port, host="evil.example")
    assert status == 403 and "not known by the name" in body
    status, body = post(port, origin="https://evil.example")
    assert status == 403 and "pages of other sites" in body
    assert post(port, sec_fetch_site="cross-site")[0] == 403
    assert post(port, origin=f"http://127.0.0.1:{port}")[0] == 200


def test_bodies_that_are_no_requests(port: int, worker: CountingWorker):
    assert post(port, b"{")[0] == 400
    assert post(port, b"x" * 100, content_type="text/plain")[0] in (400, 415)
    assert post(port, {"jsonrpc": "2.0", "id": 1, "method": "nope"})[0] in (200, 400)
    assert post(port, path="/")[0] == post(port, path="/v1/models")[0] == 404
    huge = worker.limits.body + 1
    assert post(port, b"", content_length=str(huge))[0] == 413
    assert post(port)[0] == 200  # none of it did any harm


@pytest.mark.parametrize(
    "given, address",
    [
        ("", ("127.0.0.1", 8080)),
        ("9000", ("127.0.0.1", 9000)),
        ("localhost", ("localhost", 8080)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:9000", ("::1", 9000)),
        ("[::1]", ("::1", 8080)),
        ("::1", ("::1", 8080)),
    ],
)
def test_addresses(given: str, address: tuple[str, int]):
    assert transport.parse_address(given) == address


@pytest.mark.parametrize("given", ["host:", ":80", "host:x", "h:70000", "[::1]80:x"])
def test_addresses_that_are_none(given: str):
    with pytest.raises(OptionError, match="^--http '.*': give HOST:PORT, such as 127"):
        transport.parse_address(given)
