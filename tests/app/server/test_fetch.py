"""Images from URLs: allowed hosts and public addresses only."""

import gzip
import http.server
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.engine import fetch  # noqa: E402
from fastvlm_mlx.app.server.engine.fetch import Fetcher, is_public  # noqa: E402
from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402
from fastvlm_mlx.processing import http_client  # noqa: E402


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1"),
        *("240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%lo"),
        *("fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001::1"),
        *("2001:db8::1", "::7f00:1"),
        # What older Pythons call public.
        *("192.0.0.1", "192.0.0.9", "192.0.0.192", "192.88.99.1", "0.1.2.3"),
        *("198.51.100.1", "203.0.113.1", "100.127.255.255", "168.63.129.16"),
        *("fec0::1", "feff::1", "3fff::1", "3fff:fff::1", "5f00::1", "4000::1"),
        *("64:ff9b:1::1", "64:ff9b:1::808:808", "100::1", "100:0:0:1::1"),
        *("2001:2::1", "2001:4:112::1", "2001:20::1", "2001:30::1", "3ffe::1"),
        *("::ffff:0:7f00:1", "::808:808", "::ffff:192.0.0.192", "64:ff9b::c000:c0"),
        *("2002:a00:1::1", "2002:c0a8:1::", "2002:c000:c0::1", "2001:0:7f00:1::"),
        *("2606:4700::5efe:7f00:1", "2606:4700::5efe:808:808"),
        *("2606:4700::200:5efe:a00:1", "fe80::5efe:a00:1", "ff0e::1"),
    ],
)
def test_addresses_that_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "93.184.216.34", "2606:4700::1111", "1.0.0.1", "223.255.255.254"),
        *("100.63.255.255", "100.128.0.1", "192.0.1.1", "198.17.255.255", "9.9.9.9"),
        *("::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2001:200::1"),
        *("2a00:1450:4001::1", "2620:4f:8000::1", "172.32.0.1", "192.88.98.1"),
    ],
)
def test_addresses_that_are_public(address):
    assert is_public(address)


PACKED = {
    "/packed": ("gzip", gzip.compress(b"an image")),
    "/brotli": ("br", b"an image"),
    "/bomb": ("gzip", gzip.compress(bytes(8 << 20))),
}


class _Images(http.server.BaseHTTPRequestHandler):
    """A host with an image, redirects and slow or endless responses."""

    def do_GET(self):
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
        elif self.path == "/drip":
            self.send_response(200)
            self.end_headers()
            for _ in range(60):
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif self.path == "/slow-head":
            for _ in range(60):
                self.wfile.write(b"H")
                time.sleep(0.05)
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            while True:
                self.wfile.write(bytes(1 << 16))
        elif self.path in PACKED:
            encoding, body = PACKED[self.path]
            self.send_response(200)
            self.send_header("Content-Encoding", encoding)
            self.end_headers()
            self.wfile.write(body)
        elif self.path == "/image?x=%20":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"an image for " + self.headers["host"].encode())
        else:
            self.send_error(404, "not here, says a page at length")

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any):
        pass


@dataclass
class Hosts:
    """Makes fetchers, and knows which names they asked for."""

    looked_up: list[str]

    def __call__(self, *hosts: str, size: int = 1 << 20, seconds: float = 5) -> Fetcher:
        return Fetcher(hosts, size, seconds)


@pytest.fixture
def host(monkeypatch) -> Iterator[Hosts]:
    """Names whose addresses a test decides; the public one leads to a local server."""
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Images)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    public = "93.184.216.34"
    names = {"images.example": [public], "private.example": ["10.0.0.7"]}
    names |= {"both.example": [public, "127.0.0.1"], "nowhere.example": []}
    names["slow.example"] = names["xn--bcher-kva.example"] = [public]
    slowness = {"slow.example": 1.5}
    looked_up: list[str] = []

    def resolve(name: str, port: int, **options: Any) -> list[Any]:
        looked_up.append(name)
        if name not in names:
            raise socket.gaierror(name)
        time.sleep(slowness.get(name, 0))
        return [(0, 0, 0, "", (address, port)) for address in names[name]]

    def dial(address: tuple[str, int], timeout: float) -> socket.socket:
        assert address == (public, 80)  # the address that was checked, not the name
        link = socket.socket()
        link.settimeout(timeout)
        link.connect(("127.0.0.1", web.server_port))
        return link

    monkeypatch.setattr(fetch.socket, "getaddrinfo", resolve)
    monkeypatch.setattr(fetch.socket, "create_connection", dial)

    yield Hosts(looked_up)
    web.shutdown()
    thread.join()
    web.server_close()


def refused(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(APIError) as caught:
        fetcher.read(url)
    assert caught.value.status == 400 and caught.value.code == "invalid_image_url"
    return str(caught.value)


def test_images_are_fetched_from_allowed_hosts_only(host):
    url = "http://images.example/image?x=%20"
    for pattern in ("images.example", "*", "*.example", "IMAGES.example"):
        assert host(pattern).read(url) == b"an image for images.example"
    host.looked_up.clear()
    for pattern in ((), ("other.example",), ("*.images.example",), ("xample",)):
        assert "not allowed" in refused(host(*pattern), url)
    assert host.looked_up == []  # not even its name was looked up


@pytest.mark.parametrize("name", ["private.example", "both.example"])
def test_a_name_with_a_private_address_is_refused(host, name):
    assert "not public" in refused(host("*"), f"http://{name}/image")


def test_names_without_addresses(host):
    refused(host("*"), "http://nowhere.example/image")
    refused(host("*"), "http://unknown.example/image")


def test_redirects_are_checked_like_the_first_address(host):
    start = "http://images.example/to?"
    found = host("*").read(start + "http://images.example/image?x=%20")
    assert found == b"an image for images.example"
    assert "not public" in refused(host("*"), start + "http://private.example/image")
    assert "must be http(s) (not http or https)" in refused(
        host("*"), start + "file:///etc/passwd"
    )
    assert "must be http" in refused(host("*"), start + "ftp://images.example/a")
    only = host("images.example")
    assert "not allowed" in refused(only, start + "http://other.example/image")
    again = "/to?" * 5
    assert "too often" in refused(host("*"), "http://images.example" + again)


def test_a_slow_resolver_ends_at_the_deadline(host):
    """In the first lookup and after redirects, and others are fetched meanwhile."""
    url = "http://images.example/image?x=%20"
    slow = "http://slow.example/image?x=%20"
    for first in (slow, f"http://images.example/to?{slow}"):
        started = time.monotonic()
        assert "too long" in refused(host("*", seconds=0.3), first)
        assert time.monotonic() - started < 1.2
    assert host("*").read(url) == b"an image for images.example"


def test_slow_redirects_end_at_the_deadline(host):
    hop = "http://slow.example/to?"
    started = time.monotonic()
    assert "too long" in refused(host("*", seconds=2), hop * 3)
    assert time.monotonic() - started < 3


def test_hosts_that_are_not_ascii(host):
    url = "http://b\u00fccher.example/image?x=%20"
    for pattern in (
        "b\u00fccher.example",
        "xn--bcher-kva.example",
        "B\u00dcCHER.example",
    ):
        assert host(pattern).read(url) == b"an image for xn--bcher-kva.example"
    assert "not allowed" in refused(host("bucher.example"), url)
    full_width = "http://\uff11\uff12\uff17.0.0.1/image"
    assert "not allowed" in refused(host("*.example"), full_width)
    refused(host("*"), full_width)
    assert host.looked_up[-1] == "127.0.0.1"


def test_packed_images(host):
    assert host("*").read("http://images.example/packed") == b"an image"
    message = refused(host("*"), "http://images.example/brotli")
    assert message == (
        "images.example sent an image packed as br, which is not unpacked here"
    )
    message = refused(host("*", size=1 << 20), "http://images.example/bomb")
    assert message == "an image has more than 1 MB"


def test_a_name_is_resolved_once(host):
    """DNS that answers differently the second time is not asked a second time."""
    host("*").read("http://images.example/image?x=%20")
    assert host.looked_up == ["images.example"]


def test_hosts_that_are_slow_or_endless(host):
    url = "http://images.example"
    started = time.monotonic()
    refused(host("*", seconds=0.4), f"{url}/drip")
    refused(host("*", seconds=0.4), f"{url}/slow-head")
    assert time.monotonic() - started < 3
    assert "more than" in refused(host("*", size=1 << 20), f"{url}/endless")
    message = refused(host("*"), f"{url}/missing")
    assert message == "images.example answered 404"


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example:81/a",
        "http://user@images.example/a",
        "http://user:pw@images.example/a",
        "http:///a",
        "http://images.example:99999/a",
        "http://images.example/\u0000",
        "http://[::1/a",
        "javascript:alert(1)",
        "http://@images.example/a",
        "http://127.0.0.1\\@images.example/a",
        "http://images.example\\.other.example/a",
        "http://[::1].images.example/a",
        "http://[images.example]/a",
        "http://images.example\t.other.example/a",
        "http://images.example/\r\nX-Evil: 1",
        "http://a..b/",
        "http://\ud800/",
        "http://images.example%00.other.example/",
        "http://images.example%2fother.example/",
        "http://images.example:0/",
    ],
)
def test_addresses_that_are_refused_unread(host, url):
    refused(host("*"), url)
    assert host.looked_up == []


def test_https_is_checked_against_the_name():
    context = http_client.tls_context()
    assert context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED
