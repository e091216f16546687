"""Fetches images from URLs: allowed hosts and public addresses only.

A name is resolved once, all of its addresses must be public, and the connection goes
to the address that was checked. So DNS rebinding, a name that changes its address
after the check, has no effect. Each redirect is checked like the first URL.
"""

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.processing import http_client
from fastvlm_mlx.processing.http_client import PORTS, FetchPolicy

MAX_REDIRECTS = 3
# Addresses that embed an IPv4 address.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an IP address belongs to the public internet."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return False
        if embedded is not None:
            return is_public(str(embedded))
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_unspecified
    )


@dataclass(frozen=True)
class Fetcher:
    """Fetches images from `hosts`: names, `*.name` for all subdomains, `*` for all.

    At most `size` bytes each, in `seconds` in all.
    """

    hosts: Sequence[str]
    size: int
    seconds: float
    tls: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def read(self, url: str) -> bytes:
        """The bytes at `url`. It blocks.

        Raises:
            APIError: They cannot be had. Its message names the host at most, never the
                rest of the URL.
        """
        policy = FetchPolicy(
            max_bytes=self.size,
            seconds=self.seconds,
            read_timeout=self.seconds,
            redirects=MAX_REDIRECTS,
            proxies=False,
            check_url=self._check_url,
            resolve=_resolve_public,
            tls=self.tls,
        )
        try:
            return http_client.fetch(url, policy)
        except http_client.TooManyRedirects:
            raise _invalid("an image's url redirects too often") from None
        except http_client.BadStatus as error:
            raise _invalid(f"{error.host} answered {error.status}") from None
        except http_client.TooLarge:
            raise _invalid(f"an image has more than {self.size >> 20} MB") from None
        except http_client.TooSlow:
            raise _invalid("an image took too long to arrive") from None
        except http_client.FetchError as error:
            reason = type(error.__cause__ or error).__name__
            raise _invalid(f"{error.host}: no answer ({reason})") from None

    def _check_url(self, url: str):
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise _invalid("an image's url is malformed") from None
        if parts.scheme not in PORTS or not host or not url.isprintable():
            raise _invalid("an image's url must be http(s)")
        if parts.username is not None or parts.password is not None:
            raise _invalid("an image's url must not hold a user name")
        if not any(_matches(host, pattern) for pattern in self.hosts):
            raise _invalid(
                "images at this host are not allowed; send the image itself as"
                " a data: url, or start the server with --allow-url HOST"
            )
        if port not in (None, PORTS[parts.scheme]):
            raise _invalid("an image's url must use the usual port")


def _resolve_public(host: str, port: int) -> str:
    """One address of the host, if all of them are public."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(is_public, addresses)):
        raise _invalid("an image's url leads to an address that is not public")
    return addresses[0]


def _matches(host: str, pattern: str) -> bool:
    host, pattern = host.lower(), pattern.lower()
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return pattern in ("*", host)


def _invalid(message: str) -> APIError:
    return APIError(400, message, code="invalid_image_url", param="messages")
