"""Images at http(s) addresses: allowed hosts only, and never a private one.

A name is resolved once, every address it has must be public, and the connection goes
to the address that was checked. So a name that points elsewhere a moment later (DNS
rebinding) gains nothing. Each redirect is an address like the first.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from fastvlm_mlx._version import __version__
from fastvlm_mlx.app.server.http.errors import APIError

REDIRECTS = 3
_STEP = 1 << 16
_PORTS = {"http": 80, "https": 443}
# Addresses that stand for an IPv4 address somewhere inside.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet's."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return False
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


@dataclass(frozen=True)
class Fetcher:
    """Reads images from `hosts`: names, `*.name` for all below it, or `*` for all.

    At most `size` bytes each, in `seconds` in all.
    """

    hosts: Sequence[str]
    size: int
    seconds: float
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def read(self, url: str) -> bytes:
        """The bytes at `url`. It blocks.

        Raises APIError, which names the host at most, never the rest of the address.
        """
        deadline = time.monotonic() + self.seconds
        for _ in range(REDIRECTS + 1):
            parts = self._checked(url)
            try:
                found = self._get(parts, deadline)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _invalid(
                    f"{parts.hostname}: no answer ({type(error).__name__})"
                ) from None
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise _invalid("an image's url redirects too often")

    def _checked(self, url: str) -> SplitResult:
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise _invalid("an image's url is malformed") from None
        if parts.scheme not in _PORTS or not host or not url.isprintable():
            raise _invalid("an image's url must be http(s)")
        if parts.username is not None or parts.password is not None:
            raise _invalid("an image's url must not hold a user name")
        if not any(_matches(host, pattern) for pattern in self.hosts):
            raise _invalid(
                "images at this host are not allowed; send the image itself as"
                " a data: url, or start the server with --allow-url HOST"
            )
        if port not in (None, _PORTS[parts.scheme]):
            raise _invalid("an image's url must use the usual port")
        return parts

    def _get(self, parts: SplitResult, deadline: float) -> bytes | str:
        """The body, or where it is to be found."""
        assert parts.hostname is not None
        connection = _Pinned(parts, self._resolve(parts), deadline, self.tls)
        with contextlib.closing(connection):
            target = parts.path or "/"
            target += f"?{parts.query}" if parts.query else ""
            connection.request(
                "GET",
                quote(target, safe="%/:?#[]@!$&'()*+,;=~|"),
                headers={
                    "User-Agent": f"fastvlm-mlx/{__version__}",
                    "Accept": "image/*",
                    "Accept-Encoding": "identity",
                },
            )
            # Closed apart from the connection, which hands its socket over.
            with contextlib.closing(connection.getresponse()) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    return answer.headers.get("location", "")
                if answer.status != 200:
                    raise _invalid(f"{parts.hostname} answered {answer.status}")
                return self._body(answer, deadline)

    def _resolve(self, parts: SplitResult) -> str:
        """One address of the host, when all of them are public."""
        port = _PORTS[parts.scheme]
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        addresses = [str(entry[4][0]) for entry in found]
        if not addresses or not all(map(is_public, addresses)):
            raise _invalid("an image's url leads to an address that is not public")
        return addresses[0]

    def _body(self, answer: http.client.HTTPResponse, deadline: float) -> bytes:
        data = bytearray()
        while chunk := answer.read1(_STEP):
            data += chunk
            if len(data) > self.size:
                raise _invalid(f"an image has more than {self.size >> 20} MB")
            if time.monotonic() > deadline:
                raise _invalid("an image took too long to come")
        return bytes(data)


class _Pinned(http.client.HTTPConnection):
    """A connection to `address`, whatever the name means by now."""

    def __init__(
        self, parts: SplitResult, address: str, deadline: float, tls: ssl.SSLContext
    ):
        assert parts.hostname is not None
        super().__init__(parts.hostname, _PORTS[parts.scheme])
        self._address = address
        self._tls = tls if parts.scheme == "https" else None
        self._deadline = deadline
        self._timer: threading.Timer | None = None
        self._twin: socket.socket | None = None

    def connect(self):
        left = max(self._deadline - time.monotonic(), 0.001)
        link: Any = socket.create_connection((self._address, self.port), left)
        # A timeout is for one read; a server that drips needs one for all of them.
        self._twin = link.dup()
        self._timer = threading.Timer(left, _hang_up, [self._twin])
        self._timer.daemon = True
        self._timer.start()
        if self._tls is not None:
            link = self._tls.wrap_socket(link, server_hostname=self.host)
        self.sock = link

    def close(self):
        super().close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._twin is not None:
            self._twin.close()


def _hang_up(link: socket.socket):
    with contextlib.suppress(OSError), link:
        link.shutdown(socket.SHUT_RDWR)


def _matches(host: str, pattern: str) -> bool:
    host, pattern = host.lower(), pattern.lower()
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in ("*", host)


def _invalid(message: str) -> APIError:
    return APIError(400, message, code="invalid_image_url", param="messages")
