"""URLs and their hosts: parsed by one rule, or refused before anything is asked."""

import socket

import pytest

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing.http_url import ascii_host, parse_url
from fastvlm_mlx.processing.image_file import open_image
from tests.support.small_images import refused


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://", "no host given"),
        ("https:///a.png", "no host given"),
        ("http://[::1", "Invalid IPv6 URL"),
        ("http://[::1]x/", "characters after the bracket of an IPv6 address"),
        ("http://127.0.0.1:port/", "a port that is none"),
        ("http://127.0.0.1:99999/", "a port that is none"),
        ("http://me:secret@127.0.0.1/", "a user name in the address"),
        ("http://@127.0.0.1/", "a user name in the address"),
        ("http://a b.example/", "a host name that is none"),
        ("http://a..b/", "a host name that is none"),
        ("http://x.example/\ta", "an unprintable character"),
        (f"http://{'a' * 64}.example/", "a host name that is none"),
        (f"http://{'a.' * 150}example/", "a host name that is none"),
        ("http://\u2603\ufe0f\u0301.example/", "a host name that is none"),
    ],
)
def test_malformed_addresses(address: str, why: str):
    with pytest.raises(ImageError) as caught:
        open_image(address)
    message = str(caught.value)
    print(message)
    assert f": not an address that can be opened ({why}" in message
    assert message.endswith("); check the address") and message.isprintable()


@pytest.mark.parametrize(
    ("url", "looked_up"),
    [
        ("http://b\u00fccher.example/a.png", "xn--bcher-kva.example"),
        ("http://b%C3%BCcher.example/a.png", "xn--bcher-kva.example"),
        ("http://B\u00dcCHER.Example./a.png", "xn--bcher-kva.example"),
        ("http://xn--bcher-kva.example/a.png", "xn--bcher-kva.example"),
        ("http://stra\u00dfe.example/", "xn--strae-oqa.example"),
        ("http://\u65e5\u672c\u8a9e\u3002example/", "xn--wgv71a119e.example"),
        ("http://my_images.example/", "my_images.example"),
    ],
)
def test_hosts_are_looked_up_by_one_rule(monkeypatch, url, looked_up):
    asked = []

    def lookup(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    fault = "no answer ([Errno -2] Name or service not known); check the address and"
    assert refused(url).startswith(fault)
    assert asked == [looked_up]


@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("http://A.example", "a.example", "/"),
        ("HTTP://a.example:80/b?c#d", "a.example", "/b?c"),
        ("https://a.example:443/", "a.example", "/"),
        ("https://a.example:80/", "a.example:80", "/"),
        ("http://a.example:8080?x y", "a.example:8080", "/?x%20y"),
        ("http://[::1]:81/", "[::1]:81", "/"),
        ("http://[0:0::1]/", "[::1]", "/"),
        ("  http://127.0.0.1/na\u00efve cat%20.png ", "127.0.0.1", None),
    ],
)
def test_the_parts_of_a_url(url: str, authority: str, target: str | None):
    parts = parse_url(url)
    assert parts.authority == authority
    assert parts.target == (target or "/na%C3%AFve%20cat%20.png")


def test_zones_of_local_addresses():
    assert parse_url("http://[fe80::1%25lo]/").host == "fe80::1%lo"


@pytest.mark.parametrize(
    "host", ["", ".", "a b", "a/b", "a%2fb", "a%00b", "[::1", "[x]", "a..b", "%ff"]
)
def test_hosts_that_are_none(host: str):
    with pytest.raises(ValueError):
        ascii_host(host)


def test_the_lengths_of_host_names():
    label = "a" * 63
    assert ascii_host(label) == label
    longest = ".".join([label] * 3 + ["a" * 61])
    assert ascii_host(longest) == longest and len(longest) == 253
    for host in (label + "a", longest + "a"):
        with pytest.raises(ValueError):
            ascii_host(host)
