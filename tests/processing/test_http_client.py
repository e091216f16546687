"""The HTTP client by itself: proxies, deadlines, servers that keep a connection."""

import base64
import gzip
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fastvlm_mlx.processing import http_client, http_errors
from fastvlm_mlx.processing.http_client import FetchPolicy


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow-head":
            for _ in range(40):
                self.wfile.write(b"H")
                time.sleep(0.05)
            return
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/redirect"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path.startswith("/status/"):
            self.send_response(int(self.path[8:]), "a reason")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"body")
            return
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "9")
            self.end_headers()
            self.wfile.write(b"half")
            return
        body = f"{self.path} {self.headers.get('proxy-authorization')}".encode()
        self.send_response(200)
        if self.path == "/packed-twice":
            body = gzip.compress(zlib.compress(body))
            self.send_header("Content-Encoding", "deflate")
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args) -> None:
        pass


@pytest.fixture
def port(monkeypatch) -> Iterator[int]:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield httpd.server_port
    httpd.shutdown()
    httpd.server_close()


def test_a_proxy_is_sent_the_whole_url(port: int, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://me:a%20b@127.0.0.1:{port}")
    policy = FetchPolicy(max_bytes=999, seconds=5, read_timeout=5)
    login = base64.b64encode(b"me:a b").decode()
    found = http_client.fetch("http://images.invalid/a b?c=1", policy)
    assert found.decode() == f"http://images.invalid/a%20b?c=1 Basic {login}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    direct = http_client.fetch(f"http://127.0.0.1:{port}/a", policy)
    assert direct == b"/a None"


def test_a_policy_without_proxies_ignores_the_environment(port: int, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    policy = FetchPolicy(max_bytes=99, seconds=5, read_timeout=5, proxies=False)
    assert http_client.fetch(f"http://127.0.0.1:{port}/a", policy) == b"/a None"


def test_a_head_that_drips_ends_at_the_deadline(port: int):
    policy = FetchPolicy(max_bytes=99, seconds=0.3, read_timeout=5)
    started = time.monotonic()
    with pytest.raises(http_errors.TooSlow):
        http_client.fetch(f"http://127.0.0.1:{port}/slow-head", policy)
    assert time.monotonic() - started < 2


def test_the_address_of_the_policy_is_dialled(port: int):
    asked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.2", "127.0.0.1"]  # the first one refuses

    policy = FetchPolicy(99, 5, 5, resolve=resolve, proxies=False)
    assert http_client.fetch(f"http://images.invalid:{port}/a", policy) == b"/a None"
    assert asked == [("images.invalid", port)]


@pytest.mark.parametrize("path", ["/a", "/redirect/a", "/redirect/redirect/a"])
def test_a_server_may_keep_the_connection_it_was_asked_to_close(
    port: int, monkeypatch, path: str
):
    monkeypatch.setattr(Handler, "protocol_version", "HTTP/1.1")
    policy = FetchPolicy(99, 5, 5)
    assert http_client.fetch(f"http://127.0.0.1:{port}{path}", policy) == b"/a None"


def test_codings_may_come_in_several_headers(port: int):
    policy = FetchPolicy(99, 5, 5)
    url = f"http://127.0.0.1:{port}/packed-twice"
    assert http_client.fetch(url, policy) == b"/packed-twice None"


@pytest.mark.parametrize("status", [200, 203])
def test_statuses_that_bring_the_content(port: int, status: int):
    policy = FetchPolicy(99, 5, 5)
    url = f"http://127.0.0.1:{port}/status/{status}"
    assert http_client.fetch(url, policy) == b"body"


@pytest.mark.parametrize("status", [201, 202, 205, 206, 300, 304, 404, 503])
def test_other_statuses(port: int, status: int):
    with pytest.raises(http_errors.BadStatus) as caught:
        http_client.fetch(
            f"http://127.0.0.1:{port}/status/{status}", FetchPolicy(9, 5, 5)
        )
    error = caught.value
    assert (error.host, error.status, error.reason) == ("127.0.0.1", status, "a reason")


def test_a_body_that_is_cut(port: int):
    with pytest.raises(http_errors.Incomplete) as caught:
        http_client.fetch(f"http://127.0.0.1:{port}/cut", FetchPolicy(9, 5, 5))
    error = caught.value
    assert (error.host, error.received, error.announced) == ("127.0.0.1", 4, 9)


def test_addresses_that_are_none(port: int):
    policy = FetchPolicy(99, 5, 5)
    with pytest.raises(http_errors.BadURL, match="^not http or https") as caught:
        http_client.fetch("ftp://images.invalid/a", policy)
    assert (caught.value.host, caught.value.redirect) == ("", None)
    with pytest.raises(http_errors.BadURL, match="^not http or https") as caught:
        http_client.fetch(
            f"http://127.0.0.1:{port}/redirectftp://images.invalid/", policy
        )
    redirect = caught.value.redirect
    assert redirect is not None and redirect.status == 302
    assert caught.value.host == redirect.host == "127.0.0.1"
