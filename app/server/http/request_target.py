"""Middleware for a request target that is a whole URL: `GET http://host/path`.

Clients write it to proxies, and every server must accept it (RFC 9112, 3.2.2).
"""

import re
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(/.*)?", re.IGNORECASE | re.DOTALL)


class RequestTargetMiddleware:
    """Gives the application the path of such a target, and its host as Host.

    The Host header that was sent is ignored, as the RFC asks for, so that what is
    checked is the host that was asked for.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        if scope["type"] == "http":
            match = _ABSOLUTE.fullmatch(scope.get("raw_path") or b"")
            if match is not None:
                path = match[2] or b"/"
                headers = [each for each in scope["headers"] if each[0] != b"host"]
                scope = {
                    **scope,
                    "path": unquote(path.decode("ascii")),
                    "raw_path": path,
                    "headers": [(b"host", match[1]), *headers],
                }
        await self._app(scope, receive, send)
