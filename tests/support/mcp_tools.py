"""The tools of `fastvlm-mlx mcp` over a small model, in this process."""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from mcp import Client, MCPError
from mcp.server import Server
from mcp_types import CallToolResult, TextContent

from fastvlm_mlx import load
from fastvlm_mlx.app.mcp.images import ImageReader
from fastvlm_mlx.app.mcp.roots import Roots
from fastvlm_mlx.app.mcp.server import USAGE, Tools, build
from fastvlm_mlx.app.server.engine.engine import Engine
from fastvlm_mlx.app.server.engine.fetch import Fetcher
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http.limits import Limits


class CountingWorker(Worker):
    """A worker with the model of `folder`; `encoded` counts what it encoded."""

    def __init__(self, folder: str | Path, limits: Limits | None = None):
        limits = limits or Limits()
        self.encoded = 0
        self.ended = threading.Event()  # the last answer, however it ended

        def load_engine() -> Engine:
            model = load(folder)
            engine = Engine("tiny", model, limits)
            encode, stream = model.encode_pixels, engine.stream

            def counted(pixels: Any) -> Any:
                self.encoded += len(pixels)
                return encode(pixels)

            def watched(*arguments: Any) -> Iterator[Any]:
                try:
                    yield from stream(*arguments)
                finally:
                    self.ended.set()

            model.encode_pixels = counted
            engine.stream = watched  # type: ignore[method-assign]
            return engine

        super().__init__(load_engine, limits)


@contextlib.contextmanager
def started(
    folder: str | Path, limits: Limits | None = None
) -> Iterator[CountingWorker]:
    worker = CountingWorker(folder, limits)
    worker.start()
    try:
        yield worker
    finally:
        worker.close()


def make_tools(
    worker: Worker,
    *roots: Path,
    hosts: tuple[str, ...] = (),
    capture: Callable[[], bytes] | None = None,
    loaded: "Future[None] | None" = None,
) -> Tools:
    """The handlers, whose model is there unless `loaded` says otherwise."""
    if loaded is None:
        loaded = Future()
        loaded.set_result(None)
    fetcher = Fetcher(hosts, worker.limits.body, 5)
    return Tools(worker, ImageReader(Roots(roots), fetcher), loaded, capture)


def make_server(worker: Worker, *roots: Path, **options: Any) -> Server[Any]:
    """The MCP server of `make_tools`."""
    return build(make_tools(worker, *roots, **options), str(Roots(roots)))


def use(
    server: Any, work: Callable[[Client], Awaitable[Any]], mode: str = "auto"
) -> Any:
    """What `work` returns of a client that is connected to `server`."""

    async def connected() -> Any:
        fault = None
        async with Client(server, mode=mode) as client:
            try:
                return await work(client)
            except MCPError as error:  # not in a group, as it would be from here
                fault = error
        raise fault

    return asyncio.run(connected())


def call(
    server: Any, tool: str, mode: str = "auto", **arguments: Any
) -> CallToolResult:
    """The result of one call."""

    async def one(client: Client) -> CallToolResult:
        return await client.call_tool(tool, arguments)

    return use(server, one, mode)


def text(result: CallToolResult) -> str:
    """The answer of a call that worked."""
    assert not result.is_error, result.content
    return _text(result)


def fault(result: CallToolResult) -> str:
    """The message of a call that failed: one line."""
    assert result.is_error and len(result.content) == 1
    line = _text(result)
    assert line and line == " ".join(line.split()) and "Traceback" not in line
    return line


def usage(result: CallToolResult) -> dict[str, Any]:
    assert result.meta is not None
    return dict(result.meta[USAGE])


def _text(result: CallToolResult) -> str:
    block = result.content[0]
    assert isinstance(block, TextContent)
    return block.text
