"""An HTTP client for images: GET with limits on size, time and redirects.

A `FetchPolicy` says which URLs and addresses are allowed. The command line takes any;
`app/server/engine/fetch.py` allows listed hosts at public addresses only.
"""

import base64
import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from fastvlm_mlx._version import __version__
from fastvlm_mlx.processing import http_body
from fastvlm_mlx.processing.http_deadline import Deadline
from fastvlm_mlx.processing.http_errors import (
    BadEncoding,
    BadStatus,
    BadURL,
    Incomplete,
    NoAnswer,
    TooLarge,
    TooManyRedirects,
    TooSlow,
)
from fastvlm_mlx.processing.http_url import HttpURL, parse_url

_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)


def _system_addresses(host: str, port: int) -> list[str]:
    """All addresses of a name, as the system finds them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True)
class FetchPolicy:
    """What a fetch may do.

    - `max_bytes`: size of the body, packed and unpacked.
    - `seconds`: for everything, name lookups and redirects included.
    - `read_timeout`: seconds of silence.
    - `redirects`: how many to follow.
    - `proxies`: whether to use the proxies of the environment.
    - `check_url`: called with the first URL and each redirect; raises to refuse it.
    - `resolve`: the addresses to try for a host and port; raises to refuse it. It runs
      in a thread of its own.
    """

    max_bytes: int
    seconds: float
    read_timeout: float
    redirects: int = 10
    proxies: bool = True
    check_url: Callable[[HttpURL], None] = lambda url: None
    resolve: Callable[[str, int], Sequence[str]] = _system_addresses


@cache  # it takes tens of milliseconds to read the system's certificates
def tls_context() -> ssl.SSLContext:
    """How a host's certificate is checked: Python's default, for the whole process."""
    return ssl.create_default_context()


def fetch(url: str, policy: FetchPolicy) -> bytes:
    """The bytes at an http(s) URL. It blocks.

    Raises:
        FetchError: One of its subclasses in `http_errors`. What the policy's functions
            raise passes through, except OSError and ValueError, which are NoAnswer.
    """
    host, redirect = "", None
    with contextlib.closing(Deadline(policy.seconds)) as deadline:
        try:
            for _ in range(policy.redirects + 1):
                try:
                    parts = parse_url(url)
                except ValueError as error:
                    raise BadURL(str(error), redirect) from None
                policy.check_url(parts)
                host = parts.host
                if deadline.passed:
                    raise TooSlow(host)
                with _open(parts, policy, deadline) as response:
                    if response.status not in _REDIRECTS:
                        return _body(host, response, policy, deadline)
                    redirect = BadStatus(host, response.status, response.reason)
                    url = urljoin(url, _location(response))
            assert redirect is not None
            raise TooManyRedirects(host, redirect.status, redirect.reason)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if deadline.passed:
                raise TooSlow(host) from None
            raise NoAnswer(host) from error


def _location(response: http.client.HTTPResponse) -> str:
    """Where a redirect leads; servers send UTF-8, http.client reads Latin-1."""
    location = response.headers.get("location", "")
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    return location


@contextlib.contextmanager
def _open(
    url: HttpURL, policy: FetchPolicy, deadline: Deadline
) -> Iterator[http.client.HTTPResponse]:
    """The response to a GET of `url`, its body unread."""
    target = url.target
    headers = {
        "User-Agent": f"fastvlm-mlx/{__version__}",
        "Accept": "image/*, */*;q=0.5",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    proxy = _proxy(url, policy)
    kind = http.client.HTTPConnection
    options: dict[str, Any] = {"timeout": policy.read_timeout}
    if url.scheme == "https":
        kind = http.client.HTTPSConnection
        options["context"] = tls_context()
    if proxy is None:
        connection = kind(url.host, url.port, **options)
    else:
        connection = kind(proxy.hostname or "", proxy.port or 80, **options)
        if url.scheme == "https":
            connection.set_tunnel(url.host, url.port, _authorization(proxy))
        else:
            target = f"http://{url.authority}{target}"
            headers |= _authorization(proxy)

    def connect(
        address: tuple[str, int], timeout: float, source: None = None
    ) -> socket.socket:
        host, port = address
        addresses = deadline.wait_for(lambda: policy.resolve(host, port))
        fault: OSError = socket.gaierror(f"{host} has no address")
        for each in addresses:
            try:
                sock = socket.create_connection(
                    (each, port), min(timeout, deadline.left)
                )
            except OSError as error:
                fault = error
                continue
            # The time for connecting is not the time for reading.
            sock.settimeout(timeout)
            deadline.watch(sock)
            return sock
        raise fault

    # The one place where http.client looks up and connects, before TLS and tunnels.
    vars(connection)["_create_connection"] = connect
    with contextlib.closing(connection):
        connection.request("GET", target, headers=headers)
        # A server that keeps the connection, which it was asked to close, loses its
        # response with it.
        with connection.getresponse() as response:
            yield response


def _body(
    host: str,
    response: http.client.HTTPResponse,
    policy: FetchPolicy,
    deadline: Deadline,
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
    encoding = ",".join(response.headers.get_all("content-encoding", []))
    try:
        return http_body.unpack(bytes(data), encoding, policy.max_bytes)
    except http_body.TooMuch:
        raise TooLarge(host) from None
    except (http_body.UnknownCoding, http_body.DamagedBody) as error:
        damaged = isinstance(error, http_body.DamagedBody)
        raise BadEncoding(host, error.name, damaged) from None


def _proxy(url: HttpURL, policy: FetchPolicy) -> SplitResult | None:
    proxy = getproxies().get(url.scheme) if policy.proxies else None
    if not proxy or proxy_bypass(url.authority):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _authorization(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
