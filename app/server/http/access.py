"""Who may ask at all, and what every response says about itself.

A server on a person's own machine can be reached by every web page they visit. So the
Host must be one that this server is known by (a page whose name was made to point here
has another), an Origin must be the server's own, and where other machines can connect
a token is needed.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastvlm_mlx.app.server.api import ollama, openai
from fastvlm_mlx.app.server.http.body import Meter
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.app.server.http.limits import Limits

_log = logging.getLogger("fastvlm_mlx.serve")

# Nothing from elsewhere, no inline script or style, no frame around the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# What answers questions or tells about the model. The page itself is no secret, and a
# browser cannot send a token with it.
GUARDED = ("/v1/", "/api/")
_METHODS = ("GET", "POST", "HEAD", "OPTIONS")


class AccessMiddleware:
    """Lets requests through to `app`, or refuses them.

    `hosts` are the names this server is known by; `token` is needed for what is
    `GUARDED`, unless None. `paths` may appear in the log.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str],
        token: str | None,
        paths: Collection[str],
        limits: Limits,
    ):
        self._app = app
        self._hosts = hosts
        self._token = None if token is None else token.encode()
        self._paths = paths
        self._limits = limits
        self._meter = Meter(limits.bodies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        begun, status = time.perf_counter(), 0
        path = scope["path"]

        async def sending(message: Message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if status >= 400 and scope["method"] == "POST":
                    # What is left of the body is of no interest.
                    headers["connection"] = "close"
            await send(message)

        held = 0

        def hold(size: int):
            nonlocal held
            self._meter.take(size)
            held += size

        scope.setdefault("state", {})["hold"] = hold
        try:
            headers = Headers(scope=scope)
            try:
                self._check(headers, path)
            except APIError as refusal:
                await self._drain(headers, receive)
                await _refuse(refusal, path)(scope, receive, sending)
            else:
                await self._app(scope, receive, sending)
        # An exception's message may quote the request, and uvicorn would log it.
        except Exception as error:
            _log.error("a request failed: %s", type(error).__name__)
            if not status:
                refusal = APIError(500, "the server failed")
                await _refuse(refusal, path)(scope, receive, sending)
        finally:
            self._meter.give(held)
            self._write_down(scope, path, status, time.perf_counter() - begun)

    def _check(self, headers: Headers, path: str):
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            raise APIError(
                403,
                "this server is not known by the name in the Host header;"
                " start it with --allow-host NAME if it should be",
                code="host_not_allowed",
            )
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site") == "cross-site"
        if origin is not None and not _same(origin, host):
            foreign = True
        if foreign and (origin is not None or path.startswith(GUARDED)):
            raise APIError(
                403, "pages of other sites may not ask", code="origin_not_allowed"
            )
        if self._token is not None and path.startswith(GUARDED):
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(
                given.strip().encode("utf-8", "replace"), self._token
            )
            if kind.lower() != "bearer" or not right:
                raise APIError(
                    401,
                    "a token is needed: Authorization: Bearer TOKEN",
                    code="invalid_api_key",
                )

    async def _drain(self, headers: Headers, receive: Receive):
        """Reads a small body: its sender may only listen when it has been sent."""
        announced = headers.get("content-length", "0")
        if "expect" in headers or not announced.isdigit():
            return
        if not 0 < int(announced) <= self._limits.body:
            return

        async def discard():
            while (await receive()).get("more_body", False):
                pass

        try:
            await asyncio.wait_for(discard(), 1)
        except asyncio.TimeoutError:
            pass

    def _write_down(self, scope: Scope, path: str, status: int, seconds: float):
        # Only what is known beforehand: a path may hold anything.
        method = scope["method"] if scope["method"] in _METHODS else "?"
        path = path if path in self._paths else "?"
        _log.info("%s %s %d %.2f s", method, path, status, seconds)


def _refuse(refusal: APIError, path: str) -> JSONResponse:
    error = ollama.error if path.startswith("/api/") else openai.error
    return JSONResponse(error(refusal), refusal.status, headers=refusal.headers)


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def _same(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
