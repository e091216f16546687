"""Middleware: host, origin and token checks, body memory, security headers, log.

A server on a person's own machine can be reached by every web page they visit. So the
Host must be a known name of this server (DNS rebinding sends another one), an Origin
must be the server's own, and a token is required where other machines can connect.

One concern per class, from the outside in: `RequestLogMiddleware`,
`SecurityHeadersMiddleware`, `AccessMiddleware`, `BodyMemoryMiddleware`.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastvlm_mlx.app.server.http.body import BodyMemory
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.host import host_name

_log = logging.getLogger("fastvlm_mlx.serve")

# No foreign resources, no inline script or style, no frame around the page.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Paths that run the model or describe it. The page itself is public, and a browser
# cannot send a token with its first request.
PROTECTED_PREFIXES = ("/v1/", "/api/", "/mcp", "/props")
_METHODS = ("GET", "POST", "HEAD", "OPTIONS")

ErrorResponse = Callable[[APIError, str], Response]
"""Formats an error for the protocol that a path belongs to."""


class RequestLogMiddleware:
    """Logs one line a request, and turns an unexpected exception into a 500.

    Only the path templates in `paths` are logged: another path may hold anything.
    """

    def __init__(
        self, app: ASGIApp, *, paths: Collection[str], error_response: ErrorResponse
    ):
        self._app = app
        self._paths = paths
        self._error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started, status = time.perf_counter(), 0

        async def send_and_note(message: Message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        # An exception's message may quote the request, and uvicorn would log it.
        except Exception as error:
            _log.error("a request failed: %s", type(error).__name__)
            if not status:
                failed = APIError(500, "the server failed")
                response = self._error_response(failed, scope["path"])
                await SecurityHeadersMiddleware(response)(scope, receive, send_and_note)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "?"
            path = scope["path"] if scope["path"] in self._paths else "?"
            seconds = time.perf_counter() - started
            _log.info("%s %s %d %.2f s", method, path, status, seconds)


class SecurityHeadersMiddleware:
    """Adds `SECURITY_HEADERS`, and closes the connection after a rejected POST."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message):
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] >= 400 and scope["method"] == "POST":
                    # The rest of the body is not read.
                    headers["connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_with_headers)


class BodyMemoryMiddleware:
    """Limits the bytes of all request bodies that are held at once.

    A request that exceeds `limit` fails with the APIError that `BodyMemory` raises.
    """

    def __init__(self, app: ASGIApp, *, limit: int):
        self._app = app
        self._memory = BodyMemory(limit)

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held = 0

        async def receive_counted() -> Message:
            nonlocal held
            message = await receive()
            size = len(message.get("body", b""))
            self._memory.acquire(size)
            held += size
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._memory.release(held)


class AccessMiddleware:
    """Checks Host, Origin and token.

    `hosts` are the names this server is known by. `token` is required on
    `PROTECTED_PREFIXES`, unless None. Up to `max_drain` bytes of a rejected body are
    read.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        token: str | None,
        max_drain: int,
        error_response: ErrorResponse,
    ):
        self._app = app
        self._hosts = hosts
        self._token = None if token is None else token.encode()
        self._max_drain = max_drain
        self._error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        if scope["type"] == "http":
            headers, path = Headers(scope=scope), scope["path"]
            try:
                self._check(headers, path)
            except APIError as error:
                await self._drain(headers, receive)
                await self._error_response(error, path)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str):
        host = headers.get("host", "")
        if host_name(host) not in self._hosts:
            raise APIError(
                403,
                "this server is not known by the name in the Host header"
                f" ({host_name(host) or 'none'}); start it with --allow-host NAME if it"
                " should be",
                code="host_not_allowed",
            )
        protected = path.startswith(PROTECTED_PREFIXES)
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site") == "cross-site"
        if origin is not None and not _same_origin(origin, host):
            foreign = True
        if foreign and (origin is not None or protected):
            raise APIError(
                403,
                "requests from pages of other sites are not allowed",
                code="origin_not_allowed",
            )
        if self._token is not None and protected:
            if not self._has_token(headers, self._token):
                raise APIError(
                    401,
                    "a token is needed: Authorization: Bearer TOKEN",
                    code="invalid_api_key",
                )

    def _has_token(self, headers: Headers, token: bytes) -> bool:
        scheme, _, sent = headers.get("authorization", "").partition(" ")
        # Anthropic's clients have a header of their own.
        for text in (
            sent if scheme.lower() == "bearer" else "",
            headers.get("x-api-key", ""),
        ):
            if hmac.compare_digest(text.strip().encode("utf-8", "replace"), token):
                return True
        return False

    async def _drain(self, headers: Headers, receive: Receive):
        """Reads a small body: some clients read no response before they sent it."""
        announced = headers.get("content-length", "0")
        if "expect" in headers or not announced.isdigit():
            return
        if not 0 < int(announced) <= self._max_drain:
            return

        async def discard():
            while (await receive()).get("more_body", False):
                pass

        try:
            await asyncio.wait_for(discard(), 1)
        except TimeoutError:
            pass


def _same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
