"""Parses http(s) URLs: one rule for hosts, wherever they come from.

A host is percent-decoded, made ASCII by IDNA (UTS 46), and checked, so that what is
allowed, what is looked up and what is asked for are the same.
"""

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

import idna

from fastvlm_mlx.errors import quoted

PORTS = {"http": 80, "https": 443}
_SAFE = "%/:?#[]@!$&'()*+,;=~|"  # not quoted in a request target
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


@dataclass(frozen=True)
class HttpURL:
    """The parts of a URL, ready to be sent.

    - `host`: lower-case ASCII, no brackets, no dot at the end.
    - `target`: path and query, percent-encoded.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """As in a Host header: the port only if it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(url: str) -> HttpURL:
    """The parts of an http or https URL.

    Raises:
        ValueError: it is none; what is wrong, in a few words.
    """
    url = url.strip(" ")
    # urlsplit drops line ends and tabs without a word.
    if any(not c.isprintable() for c in url):
        raise ValueError("an unprintable character")
    parts = urlsplit(url)
    if parts.scheme not in PORTS:
        raise ValueError("not http or https")
    if "@" in parts.netloc:
        raise ValueError("a user name in the address")
    host = parts.netloc
    if not host.startswith("["):
        host = host.partition(":")[0]
    else:
        literal, bracket, rest = host.partition("]")
        if rest and not rest.startswith(":"):
            raise ValueError("characters after the bracket of an IPv6 address")
        host = literal + bracket
    if not host:
        raise ValueError("no host given")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("a port that is none") from None
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return HttpURL(
        parts.scheme,
        ascii_host(host),
        PORTS[parts.scheme] if port is None else port,
        quote(target, safe=_SAFE),
    )


def ascii_host(host: str) -> str:
    """A host's name or address as it is looked up: bücher.example is xn--bcher-kva...

    Raises:
        ValueError: it is none; what is wrong, in a few words.
    """
    host = unquote(host, errors="strict")
    if host.startswith("["):
        if not host.endswith("]"):
            raise ValueError("an IPv6 address without its bracket")
        return str(ipaddress.IPv6Address(host[1:-1]))
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except UnicodeError as error:  # idna's own errors among them
            raise ValueError(f"a host name that is none ({quoted(error)})") from None
    host = host.lower().removesuffix(".")
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise ValueError("a host name that is none")
    if any(len(label) > 63 for label in host.split(".")):
        raise ValueError("a host name that is none")
    return host
