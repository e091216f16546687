"""`fastvlm-mlx mcp`: loads the model and serves its tools over stdio or HTTP."""

import asyncio
import atexit
import importlib.util
import io
import logging
import os
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.mcp.roots import Roots
from fastvlm_mlx.app.server import serve
from fastvlm_mlx.app.server.stop_signals import StopSignals
from fastvlm_mlx.app.session import UsageError, choose_model
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.files.installation import install_command

if TYPE_CHECKING:
    from mcp.server import Server

    from fastvlm_mlx.app.server.engine.worker import Worker

_NEEDED = ("mcp", "llguidance")
# What fails within these seconds, such as a mistyped name, ends the command. A client
# waits for an answer to its first message far longer.
_AT_ONCE = 1.0


@dataclass(frozen=True)
class Options:
    """The options of `mcp`, as on the command line.

    `http` is HOST:PORT, HOST or PORT; None is stdio. `screen` may be captured.
    """

    model: str | None = None
    roots: tuple[Path, ...] = ()
    adapter: Path | None = None
    refresh: bool = False
    keep_features: int | None = None
    allow_url: tuple[str, ...] = ()
    screen: bool = True
    http: str | None = None
    token: str | None = None
    allow_host: tuple[str, ...] = ()


def run(options: Options) -> None:
    """Serves until the client closes the connection, or until a signal.

    Raises:
        OptionError: a root is no folder, or the options are not safe together.
        FastVLMError: the extra is not installed, the address is in use, or the model
            cannot be loaded.
    """
    _check_extra()
    roots = Roots(options.roots or (_working_folder(),))
    if options.http is None and (options.token is not None or options.allow_host):
        raise UsageError("--token and --allow-host are for --http; stdio has no need")
    # Its warnings quote what clients send.
    log = logging.getLogger("mcp")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    name = choose_model(options.model)
    if options.http is None:
        _over_stdio(options, name, roots)
        return
    from fastvlm_mlx.app.mcp import http

    at = http.parse_address(options.http)
    access = serve.Options(
        model=name,
        host=at[0],
        port=at[1],
        token=options.token,
        allow_host=options.allow_host,
    )
    token, hosts = serve.read_token(access), serve.known_names(access)
    listener = serve.listen(*at)
    with StopSignals() as signals, listener, serve.logged_to_stderr():
        worker = _worker(options, name)
        worker.start()
        server = _server(options, worker, roots, _done(), name)
        app, requests = http.build(server, worker.limits, hosts=hosts, token=token)

        def start():
            url = f"{serve.address(listener)}{http.PATH[1:]}"
            terminal.note(f"{name} is served to MCP clients at {url} (Ctrl-C stops)")

        def stop():
            requests.close()
            worker.stop()

        signals.server = uvicorn = serve.make_server(app, worker.limits, start, stop)
        try:
            uvicorn.run(sockets=[listener])
        finally:
            if not signals.received:
                worker.close()


def _over_stdio(options: Options, name: str, roots: Roots) -> None:
    with StopSignals() as signals, serve.logged_to_stderr():
        worker = _worker(options, name)
        loaded: Future[None] = Future()
        threading.Thread(target=_load, args=(worker, loaded), daemon=True).start()
        with suppress(TimeoutError):
            loaded.result(_AT_ONCE)
        if sys.stdin is not None and sys.stdin.isatty():
            terminal.note(
                f"{name} waits for an MCP client on standard input (Ctrl-C stops);"
                " docs/mcp.md says how clients start this command"
            )
        server = _server(options, worker, roots, loaded, name)
        try:
            asyncio.run(_serve_stdio(server, signals))
        finally:
            worker.stop()
        if loaded.done():
            worker.close()
            fault = loaded.exception()  # told to the client only, until now
            _end(terminal.report(fault) if fault else 0)
        _end(0)  # nobody waits for a model that is still being downloaded


def _end(code: int) -> None:
    """Ends the process, as `StopSignals` does: Python's own end may abort with MLX."""
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


async def _serve_stdio(server: "Server[Any]", signals: StopSignals) -> None:
    from mcp.server.stdio import stdio_server

    signals.server = _Stdio()
    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


class _Stdio:
    """Ends the process at a signal: nothing can interrupt a thread that reads stdin."""

    should_exit: bool = False

    def __setattr__(self, name: str, value: object) -> None:
        os._exit(0)


def _load(worker: "Worker", loaded: "Future[None]") -> None:
    try:
        worker.start()
    except BaseException as error:
        loaded.set_exception(error)
    else:
        loaded.set_result(None)


def _done() -> "Future[None]":
    loaded: Future[None] = Future()
    loaded.set_result(None)
    return loaded


def _worker(options: Options, name: str) -> "Worker":
    from fastvlm_mlx.app.server.engine.load import load_engine
    from fastvlm_mlx.app.server.engine.worker import Worker
    from fastvlm_mlx.app.server.http.limits import Limits

    limits = Limits()
    adapters = () if options.adapter is None else (options.adapter,)
    return Worker(
        lambda: load_engine(
            name,
            limits,
            refresh=options.refresh,
            adapters=adapters,
            keep_features=options.keep_features,
        ),
        limits,
    )


def _server(
    options: Options,
    worker: "Worker",
    roots: Roots,
    loaded: "Future[None]",
    name: str,
) -> "Server[Any]":
    from fastvlm_mlx.app.mcp.images import ImageReader
    from fastvlm_mlx.app.mcp.server import Tools, build
    from fastvlm_mlx.app.server.engine.fetch import Fetcher

    limits = worker.limits
    fetcher = Fetcher(options.allow_url, limits.body // 2, limits.fetch_time)
    capture = _capture if options.screen and sys.platform == "darwin" else None
    tools = Tools(worker, ImageReader(roots, fetcher), loaded, capture)
    return build(tools, str(roots), name)


def _capture() -> bytes:
    """What the screen shows, as the bytes of a PNG file."""
    from fastvlm_mlx.app.chat import capture

    file = io.BytesIO()
    capture.screen().save(file, "PNG", compress_level=1)
    return file.getvalue()


def _working_folder() -> Path:
    """The folder that is read if none is named.

    Raises:
        UsageError: it is that of the whole system, where some clients start programs.
    """
    folder = Path.cwd()
    if folder == Path(folder.anchor):
        raise UsageError(
            f"the working folder is {folder}, all of this machine; give --root DIR with"
            " a folder of images"
        )
    return folder


def _check_extra() -> None:
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise FastVLMError(
                f"{name}: not installed, and mcp needs it; {install_command('mcp')}"
            )
