"""Images from addresses, against a server on which everything goes wrong."""

import gzip
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fastvlm_mlx.processing import image_source
from fastvlm_mlx.processing.image_file import open_image
from tests.support.small_images import encoded, noise, refused


class Handler(BaseHTTPRequestHandler):
    """A server on which everything goes wrong that can."""

    image = encoded(noise(12, 10), "PNG")
    encoding = ""

    def do_GET(self) -> None:
        try:
            getattr(self, self.path.strip("/").split("/")[0].split(".")[0])()
        except (BrokenPipeError, ConnectionResetError):
            pass  # The client had seen enough.

    def answer(self, body: bytes, length: int | None = None, kind="image/png") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if self.encoding:
            self.send_header("Content-Encoding", self.encoding)
        if length != -1:
            self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def good(self) -> None:
        self.answer(self.image, kind="text/plain")

    def no_length(self) -> None:
        self.answer(self.image, -1)

    def page(self) -> None:
        self.answer(b"<html>Log in first</html>")

    def empty(self) -> None:
        self.answer(b"", -1)

    def missing(self) -> None:
        self.send_error(404)

    def forbidden(self) -> None:
        self.send_error(403, "Two\tlines")

    def fault(self) -> None:
        self.send_error(500)

    def huge(self) -> None:
        self.answer(b"", 10**15)

    def cut(self) -> None:
        self.answer(self.image[:50], len(self.image))

    def endless(self) -> None:
        self.answer(b"", -1)
        while True:
            self.wfile.write(bytes(1 << 16))

    def drip(self) -> None:
        self.answer(b"", -1)
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def silent(self) -> None:
        time.sleep(0.6)

    def nonsense(self) -> None:
        self.wfile.write(b"\x15\x03\x01\0\2\2\n")

    def redirect(self, to: str = "/good") -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def to_file(self) -> None:
        self.redirect(f"file://{Path(__file__).resolve()}")

    def to_ftp(self) -> None:
        self.redirect("ftp://127.0.0.1/a.png")

    def to_umlaut(self) -> None:
        # http.server writes headers in Latin-1.
        self.redirect("/good/bücher und mehr.png".encode().decode("latin-1"))

    def loop(self) -> None:
        self.redirect("/loop")

    def log_message(self, format: str, *args) -> None:
        pass  # Not into the test's output.


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def short_limits(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(image_source, "URL_TIMEOUT", 0.3)
    monkeypatch.setattr(image_source, "URL_DEADLINE", 0.5)
    monkeypatch.setattr(image_source, "MAX_BYTES", 4 << 20)


@pytest.mark.parametrize(
    "page", ["good", "good.jpg", "no_length", "redirect", "good/na\u00efve cat.png"]
)
def test_good_addresses_open(server: str, page: str):
    assert open_image(f"{server}/{page}").size == (12, 10)
    assert open_image(f"HTTP{server[4:]}/{page}").size == (12, 10)


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("missing", "the server answered 404 Not Found; check the address"),
        ("forbidden", "the server answered 403 Two lines; check the address"),
        ("fault", "the server answered 500 Internal Server Error; check the address"),
        ("page", "a web page or an SVG, not an image of pixels; export it as PNG"),
        ("empty", "the file is empty; give an image"),
        ("huge", "953674316 MB, more than 4; save a smaller image"),
        ("endless", "more than 4 MB; save a smaller image"),
        ("cut", "the connection closed after 50 of 433 bytes; try again"),
        ("drip", "not complete after 0.5 s; download it first"),
        ("silent", "no answer (timed out); check the address and the network"),
        ("nonsense", "no answer ("),
        ("to_file", "the server answered 302 "),
        ("to_ftp", "the server answered 302 "),
        ("loop", "the server answered 302 "),
    ],
)
def test_bad_answers(server: str, page: str, fault: str):
    got = refused(f"{server}/{page}")
    fault = fault.replace("433", str(len(Handler.image)))
    assert got.startswith(fault)


def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    fault = refused(f"http://127.0.0.1:{port}/a.png")
    assert fault.startswith("no answer (") and "refused" in fault


@pytest.mark.parametrize("scheme", ["ftp", "file", "s3", "javascript"])
def test_unknown_schemes(scheme: str):
    assert refused(f"{scheme}://host/etc/passwd") == (
        f"cannot open {scheme}: addresses; give a path, http or https"
    )


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data[:99]) + gzip.compress(data[99:]) + bytes(9)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzipped),
        ("x-gzip", gzip.compress),
        ("gzip", bytes),  # a header that does not fit
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("identity", bytes),
        ("aws-chunked", bytes),
        ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
        (" aws-chunked ,gzip", gzip.compress),
    ],
)
@pytest.mark.parametrize("length", ["length", "no_length"])
def test_packed_answers_are_unpacked(server, monkeypatch, encoding, pack, length):
    image = Handler.image
    monkeypatch.setattr(Handler, "image", pack(image))
    monkeypatch.setattr(Handler, "encoding", encoding)
    page = "good" if length == "length" else "no_length"
    assert open_image(f"{server}/{page}").tobytes() == open_image(image).tobytes()


@pytest.mark.parametrize(
    ("encoding", "body", "fault"),
    [
        ("br", b"x", "packed as br, which is not unpacked here; download it first"),
        ("compress", b"x", "packed as compress, which is not unpacked here; download"),
        ("a\x1b[31m", b"x", "packed as a\\x1b[31m, which is not unpacked here"),
        (
            "gzip",
            gzip.compress(bytes(99), mtime=0)[:-9],
            "packed as gzip, and damaged; downl",
        ),
        ("gzip", b"\x1f\x8b\x08junk" * 9, "packed as gzip, and damaged; downl"),
        ("deflate", zlib.compress(bytes(99))[:-5], "packed as deflate, and damaged;"),
        ("deflate", b"\xff" * 99, "packed as deflate, and damaged; download it"),
        ("gzip," * 9, b"x", "packed as gzip,gzip,"),
    ],
)
def test_packed_answers_that_cannot_be_unpacked(
    server, monkeypatch, encoding, body, fault
):
    monkeypatch.setattr(Handler, "image", body)
    monkeypatch.setattr(Handler, "encoding", encoding)
    assert refused(f"{server}/good").startswith(f"the server sent it {fault}")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip, gzip"])
def test_packed_bombs_stop_at_the_limit(server, monkeypatch, encoding):
    body = bytes(64 << 20)
    for coding in encoding.split(", "):
        body = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    monkeypatch.setattr(Handler, "image", body)
    monkeypatch.setattr(Handler, "encoding", encoding)
    assert refused(f"{server}/good") == "more than 4 MB; save a smaller image"


def test_a_redirect_in_utf_8_is_followed(server: str):
    assert open_image(f"{server}/to_umlaut").size == (12, 10)


def test_a_slow_name_lookup_ends_at_the_deadline(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(20))
    started = time.monotonic()
    got = refused("http://slow.example/a.png")
    release.set()
    assert got == "not complete after 0.5 s; download it first"
    assert time.monotonic() - started < 3
