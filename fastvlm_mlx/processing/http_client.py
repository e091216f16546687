"""An HTTP client for images: GET with limits on size, time and redirects.

A `FetchPolicy` says which URLs and addresses are allowed. The command line takes any;
`app/server/engine/fetch.py` allows listed hosts at public addresses only.
"""

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from fastvlm_mlx._version import __version__

PORTS = {"http": 80, "https": 443}
_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "%/:?#[]@!$&'()*+,;=~|"  # not quoted in a request target


class FetchError(Exception):
    """A URL whose content could not be had; `host` is the one that was asked last."""

    def __init__(self, host: str, message: str = ""):
        super().__init__(message)
        self.host = host


class NoAnswer(FetchError):
    """No connection, or not HTTP; `__cause__` has the reason."""


class BadStatus(FetchError):
    """A status that is not a success, with its reason phrase."""

    def __init__(self, host: str, status: int, reason: str):
        super().__init__(host)
        self.status = status
        self.reason = reason


class TooManyRedirects(BadStatus):
    """More redirects than the policy allows."""


class TooLarge(FetchError):
    """More bytes than the policy allows; `announced` if Content-Length said so."""

    def __init__(self, host: str, announced: int | None = None):
        super().__init__(host)
        self.announced = announced


class TooSlow(FetchError):
    """Not complete within the policy's time."""


class Incomplete(FetchError):
    """The connection closed after `received` of `announced` bytes."""

    def __init__(self, host: str, received: int, announced: int):
        super().__init__(host)
        self.received = received
        self.announced = announced


@dataclass(frozen=True)
class FetchPolicy:
    """What a fetch may do.

    - `max_bytes`: size of the body.
    - `seconds`: for everything, redirects included.
    - `read_timeout`: seconds of silence.
    - `redirects`: how many to follow.
    - `proxies`: whether to use the proxies of the environment.
    - `check_url`: called with the first URL and each redirect; raises to refuse it.
    - `resolve`: the address to connect to for a host and port; raises to refuse it.
    - `tls`: None for the default context.
    """

    max_bytes: int
    seconds: float
    read_timeout: float
    redirects: int = 10
    proxies: bool = True
    check_url: Callable[[str], None] = lambda url: None
    resolve: Callable[[str, int], str] = lambda host, port: host
    tls: ssl.SSLContext | None = None


def fetch(url: str, policy: FetchPolicy) -> bytes:
    """The bytes at an http(s) URL. It blocks.

    Raises:
        FetchError: One of its subclasses. What the policy's functions raise passes
            through, except OSError and ValueError, which are NoAnswer.
    """
    host, redirect = "", None
    with contextlib.closing(_Deadline(policy.seconds)) as deadline:
        try:
            for _ in range(policy.redirects + 1):
                policy.check_url(url)
                parts = urlsplit(url)
                if redirect is not None and parts.scheme not in PORTS:
                    raise redirect
                host = parts.hostname or ""
                if parts.scheme not in PORTS or not host:
                    raise ValueError("no host given")
                if parts.username is not None:
                    raise ValueError("a user name in the address")
                with _open(parts, policy, deadline) as response:
                    if response.status not in _REDIRECTS:
                        return _body(host, response, policy, deadline)
                    redirect = BadStatus(host, response.status, response.reason)
                    url = urljoin(url, response.headers.get("location", ""))
            assert redirect is not None
            raise TooManyRedirects(host, redirect.status, redirect.reason)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if deadline.passed:
                raise TooSlow(host) from None
            raise NoAnswer(host) from error


def _open(
    parts: SplitResult, policy: FetchPolicy, deadline: "_Deadline"
) -> http.client.HTTPResponse:
    """The response to a GET of `parts`, its body unread."""
    assert parts.hostname is not None
    port = parts.port or PORTS[parts.scheme]
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {
        "User-Agent": f"fastvlm-mlx/{__version__}",
        "Accept": "image/*, */*;q=0.5",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    proxy = _proxy(parts, policy)
    kind = http.client.HTTPConnection
    options: dict[str, Any] = {"timeout": policy.read_timeout}
    if parts.scheme == "https":
        kind = http.client.HTTPSConnection
        options["context"] = policy.tls or ssl.create_default_context()
    if proxy is None:
        connection = kind(parts.hostname, port, **options)
    else:
        connection = kind(proxy.hostname or "", proxy.port or 80, **options)
        if parts.scheme == "https":
            connection.set_tunnel(parts.hostname, port, _authorization(proxy))
        else:
            target = f"http://{parts.netloc}{target}"
            headers |= _authorization(proxy)

    def connect(address: tuple[str, int], timeout: float, source: None = None):
        host, port = address
        sock = socket.create_connection(
            (policy.resolve(host, port), port), min(timeout, deadline.left)
        )
        deadline.watch(sock)
        return sock

    # The one place where http.client looks up and connects, before TLS and tunnels.
    vars(connection)["_create_connection"] = connect
    with contextlib.closing(connection):
        connection.request("GET", quote(target, safe=_SAFE), headers=headers)
        # The response keeps its own file on the socket.
        return connection.getresponse()


def _body(
    host: str,
    response: http.client.HTTPResponse,
    policy: FetchPolicy,
    deadline: "_Deadline",
) -> bytes:
    if response.status not in (200, 203):  # 203: changed by a proxy
        raise BadStatus(host, response.status, response.reason)
    length = response.length
    if length is not None and length > policy.max_bytes:
        raise TooLarge(host, length)
    data = bytearray()
    # read1 returns what has arrived, so the deadline is seen.
    while chunk := response.read1(_CHUNK):
        data += chunk
        if len(data) > policy.max_bytes:
            raise TooLarge(host)
        if deadline.passed:
            raise TooSlow(host)
    if deadline.passed:
        raise TooSlow(host)
    if length is not None and len(data) < length:
        raise Incomplete(host, len(data), length)
    return bytes(data)


class _Deadline:
    """Shuts the watched connections down after `seconds`.

    A socket's timeout is for one read; a server that drips needs one for all of them.
    """

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._shut_down)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left(self) -> float:
        return max(self._end - time.monotonic(), 0.001)

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def watch(self, sock: socket.socket):
        self._sockets.append(sock.dup())
        if self.passed:
            self._shut_down()

    def close(self):
        self._timer.cancel()
        self._timer.join()
        for sock in self._sockets:
            sock.close()

    def _shut_down(self):
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _proxy(parts: SplitResult, policy: FetchPolicy) -> SplitResult | None:
    assert parts.hostname is not None
    proxy = getproxies().get(parts.scheme) if policy.proxies else None
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
