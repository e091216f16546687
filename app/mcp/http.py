"""Streamable HTTP: the SDK's transport behind the access rules of `serve`."""

import re
from collections.abc import Collection
from typing import Any

from mcp.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from fastvlm_mlx.app.server.error_responses import error_response
from fastvlm_mlx.app.server.http.access import (
    AccessMiddleware,
    BodyMemoryMiddleware,
    RequestLogMiddleware,
    SecurityHeadersMiddleware,
)
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.app.server.http.request_target import RequestTargetMiddleware
from fastvlm_mlx.app.server.http.shutdown import OpenRequests, ShutdownMiddleware
from fastvlm_mlx.errors import OptionError

PATH = "/mcp"
_SESSIONS = 64  # at once
_IDLE = 1800.0  # seconds until a session that nobody uses is forgotten
_PORT = re.compile(r"\d{1,5}")


def build(
    server: Server[Any],
    limits: Limits,
    *,
    hosts: Collection[str],
    token: str | None,
) -> tuple[ASGIApp, OpenRequests]:
    """The application at `PATH`, and what refuses the requests that are open.

    `hosts` are the names in a Host header that are allowed; `token` is what clients
    must send, None nothing.
    """
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=limits.body,
        session_idle_timeout=_IDLE,
        max_sessions=_SESSIONS,
        # `AccessMiddleware` checks hosts and origins, and knows the names of this one.
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=False
        ),
    )
    requests = OpenRequests()
    stack = (
        Middleware(RequestTargetMiddleware),
        Middleware(RequestLogMiddleware, paths={PATH}, error_response=error_response),
        Middleware(SecurityHeadersMiddleware),
        Middleware(
            ShutdownMiddleware, requests=requests, error_response=error_response
        ),
        Middleware(
            AccessMiddleware,
            hosts=hosts,
            token=token,
            max_drain=limits.body,
            error_response=error_response,
        ),
        Middleware(BodyMemoryMiddleware, limit=limits.bodies),
    )
    for middleware, args, keywords in reversed(stack):
        app = middleware(app, *args, **keywords)
    return app, requests


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `HOST` or `PORT` as a host and a port.

    Raises:
        OptionError: it is none of them.
    """
    host, port = "127.0.0.1", "8080"
    if _PORT.fullmatch(text):
        port = text
    elif text.startswith("["):  # IPv6
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") if rest else port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    elif text:
        host = text
    if not host or not _PORT.fullmatch(port) or int(port) > 65535:
        raise OptionError(
            f"--http {text!r:.200}: give HOST:PORT, such as 127.0.0.1:8080"
        )
    return host, int(port)
