"""Loads the model, binds the socket, runs uvicorn until interrupted."""

import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.server.http.host import host_name
from fastvlm_mlx.app.server.served_name import check_served_name
from fastvlm_mlx.app.server.stop_signals import StopSignals
from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.files.installation import install_command

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

    from fastvlm_mlx.app.server.http.limits import Limits

TOKEN = "FASTVLM_TOKEN"
_NEEDED = ("starlette", "uvicorn", "pydantic", "llguidance")


@dataclass(frozen=True)
class Options:
    """The options of `serve`, as on the command line."""

    model: str | None
    host: str
    port: int
    token: str | None
    allow_host: tuple[str, ...] = ()
    allow_url: tuple[str, ...] = ()
    refresh: bool = False
    adapters: tuple[Path, ...] = ()
    served_name: str | None = None
    any_model_name: bool = False
    keep_features: int | None = None
    batch: int = 8


def run(options: Options) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP.

    Raises:
        OptionError: The options are not safe together.
        FastVLMError: The extra is not installed, the address is in use, or the model
            cannot be loaded.
    """
    _check_extra()
    token = read_token(options)
    hosts = known_names(options)
    check_served_name(options.served_name)
    from fastvlm_mlx.app.server.engine.load import load_engine
    from fastvlm_mlx.app.server.engine.worker import Worker
    from fastvlm_mlx.app.server.http.limits import Limits
    from fastvlm_mlx.app.server.http.shutdown import OpenRequests
    from fastvlm_mlx.app.server.routes import build

    limits = Limits()
    listener = listen(options.host, options.port)
    with StopSignals() as signals, listener, logged_to_stderr():
        worker = Worker(
            lambda: load_engine(
                options.model,
                limits,
                refresh=options.refresh,
                adapters=options.adapters,
                served_name=options.served_name,
                keep_features=options.keep_features,
            ),
            limits,
            options.batch,
        )
        worker.start()
        names = [info.name for info in worker.models]
        requests = OpenRequests()
        app = build(
            worker,
            hosts=hosts,
            token=token,
            image_hosts=options.allow_url,
            any_name=options.any_model_name,
            requests=requests,
        )

        def start():
            served = (
                f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} served"
            )
            terminal.note(f"{served} at {address(listener)} (Ctrl-C stops)")

        def stop():
            requests.close()
            worker.stop()

        signals.server = server = make_server(app, limits, start, stop)
        try:
            server.run(sockets=[listener])
        finally:
            if not signals.received:
                worker.close()


def make_server(
    app: "ASGIApp",
    limits: "Limits",
    start: Callable[[], None] | None = None,
    stop: Callable[[], None] | None = None,
) -> "uvicorn.Server":
    """A uvicorn server without logging: its log may quote requests.

    On the event loop it calls `start` once it takes connections, and `stop` before it
    waits for open ones to end.
    """
    import uvicorn

    from fastvlm_mlx.app.server.error_responses import malformed, overloaded
    from fastvlm_mlx.app.server.http.uvicorn_protocol import protocol_with_timeouts
    from fastvlm_mlx.app.server.http.uvicorn_server import GRACE, Server

    return Server(
        uvicorn.Config(
            app,
            http=protocol_with_timeouts(limits, overloaded, malformed()),
            loop="asyncio",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=GRACE,
        ),
        start,
        stop,
    )


def read_token(options: Options) -> str | None:
    """The token that clients must send; None if only this machine can connect.

    Raises:
        OptionError: A token is required and missing, or cannot be sent in a header.
    """
    token = os.environ.get(TOKEN) if options.token is None else options.token
    if token is None and not is_loopback(options.host):
        raise OptionError(
            f"host {options.host}: other machines can connect there, so clients need a"
            f" token; set {TOKEN} or give --token"
        )
    if token is not None and not (token.isascii() and token.isprintable() and token):
        raise OptionError("token: give printable ASCII characters, and some of them")
    if token is not None and token != token.strip():
        raise OptionError("token: spaces at its ends would be lost in a header")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def known_names(options: Options) -> tuple[str, ...]:
    """The allowed names in a Host header, without ports.

    Raises:
        OptionError: A name of `allow_host` is none.
    """
    names = {"localhost", "127.0.0.1", "[::1]"}
    names |= {_allowed_name(name) for name in options.allow_host}
    host = options.host.lower().strip("[]")
    names.add(f"[{host}]" if ":" in host else host)
    if not is_loopback(options.host):
        own = socket.gethostname().lower()
        names |= {own, f"{own.partition('.')[0]}.local"}
        names |= _own_addresses(own)
    # As in a header: an IPv6 address in its shortest form.
    return tuple(sorted(host_name(name) or name for name in names))


def _allowed_name(text: str) -> str:
    is_ipv6 = text.count(":") > 1 and not text.startswith("[")
    name = host_name(f"[{text}]" if is_ipv6 else text)
    if name is None:
        raise OptionError(
            f"--allow-host {text}: no host name; give one such as images.example"
        )
    return name


def _own_addresses(name: str) -> set[str]:
    found: set[str] = set()
    try:
        entries = socket.getaddrinfo(name, None)
        found |= {str(entry[4][0]) for entry in entries}
        # The address of the outgoing interface; a UDP connect sends no packet.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))
            found.add(probe.getsockname()[0])
    except OSError:
        pass
    return {f"[{address}]" if ":" in address else address for address in found}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        FastVLMError: `host` cannot be resolved, or the port cannot be bound.
    """
    host = host.strip("[]")
    try:
        entries = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, endpoint = entries[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(endpoint)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except (OSError, UnicodeError, OverflowError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise FastVLMError(
            f"{host} port {port}: {reason}; choose another --host or --port"
        ) from None
    return listener


def address(listener: socket.socket) -> str:
    """The URL of the web page."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _check_extra():
    import importlib.util

    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise FastVLMError(
                f"{name}: not installed, and serve needs it; {install_command('serve')}"
            )


@contextmanager
def logged_to_stderr() -> Iterator[None]:
    """Logs method, path, status and time of each request, nothing of its content."""
    log = logging.getLogger("fastvlm_mlx.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = True
