"""Fetches images from URLs: allowed hosts and public addresses only.

A name is resolved once, all of its addresses must be public, and the connection goes
to the address that was checked. So DNS rebinding, a name that changes its address
after the check, has no effect. Each redirect is checked like the first URL.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from fastvlm_mlx.app.server.engine.public_address import is_public
from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.processing import http_client, http_errors
from fastvlm_mlx.processing.http_client import FetchPolicy
from fastvlm_mlx.processing.http_url import PORTS, HttpURL, ascii_host

MAX_REDIRECTS = 3


@dataclass(frozen=True)
class Fetcher:
    """Fetches images from `hosts`: names, `*.name` for all subdomains, `*` for all.

    At most `size` bytes each, in `seconds` in all.
    """

    hosts: Sequence[str]
    size: int
    seconds: float

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
        )
        try:
            return http_client.fetch(url, policy)
        except http_errors.TooManyRedirects:
            raise _invalid("an image's url redirects too often") from None
        except http_errors.BadStatus as error:
            raise _invalid(f"{error.host} answered {error.status}") from None
        except http_errors.TooLarge:
            raise _invalid(f"an image has more than {self.size >> 20} MB") from None
        except http_errors.TooSlow:
            raise _invalid("an image took too long to arrive") from None
        except http_errors.BadURL as error:
            raise _invalid(f"an image's url must be http(s) ({error})") from None
        except http_errors.BadEncoding as error:
            fault = "damaged" if error.damaged else "which is not unpacked here"
            raise _invalid(
                f"{error.host} sent an image packed as {error.name}, {fault}"
            ) from None
        except http_errors.FetchError as error:
            reason = type(error.__cause__ or error).__name__
            raise _invalid(f"{error.host}: no answer ({reason})") from None

    def _check_url(self, url: HttpURL):
        if not any(_matches(url.host, pattern) for pattern in self.hosts):
            raise _invalid(
                f"images at {url.host} are not allowed; send the image itself as"
                " a data: url, or start the server with --allow-url HOST"
            )
        if url.port != PORTS[url.scheme]:
            raise _invalid("an image's url must use the usual port")


def _resolve_public(host: str, port: int) -> list[str]:
    """The addresses of the host, if all of them are public."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses or not all(map(is_public, addresses)):
        raise _invalid("an image's url leads to an address that is not public")
    return addresses


def _matches(host: str, pattern: str) -> bool:
    if pattern == "*":
        return True
    name = pattern.removeprefix("*.")
    try:
        host, name = ascii_host(host), ascii_host(name)
    except ValueError:
        return False
    return host.endswith(f".{name}") if pattern.startswith("*.") else host == name


def _invalid(message: str) -> APIError:
    return APIError(400, message, code="invalid_image_url", param="messages")
