"""Hostile requests: each is rejected, and the server answers the next request."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from tests.support.hostile_protocols import PROTOCOL_ATTACKS  # noqa: E402
from tests.support.hostile_requests import ATTACKS, TOKEN, Attack, at, chat, file  # noqa: E402
from tests.support.serving import RunningServer, running  # noqa: E402

ALL = [*ATTACKS, *PROTOCOL_ATTACKS]
LIMITS = Limits(
    body=2 << 20,
    bodies=6 << 20,
    pixels=1_000_000,
    text=100_000,
    header_time=1.0,
    body_time=1.0,
    answer_time=20.0,
    idle_time=2.0,
)


@pytest.fixture(scope="module")
def server(reference: Path) -> Iterator[RunningServer]:
    """One server for all attacks; it must survive them."""
    hosts = ("images.invalid", "localhost", "127.0.0.1", "[::1]", "*.example")
    with running(
        reference / "llava-mini", limits=LIMITS, token=TOKEN, image_hosts=hosts
    ) as started:
        yield started


def alive(server: RunningServer) -> bool:
    """Whether the next request is answered."""
    reply = server.send(
        "/v1/chat/completions", chat("Hi"), authorization=f"Bearer {TOKEN}"
    )
    return reply.status == 200 and reply.json()["usage"]["completion_tokens"] == 4


def test_there_are_enough_of_them():
    names = [attack.name for attack in ALL]
    assert len(set(names)) == len(names) >= 40


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_an_attack_is_refused(server: RunningServer, attack: Attack):
    headers = {"authorization": f"Bearer {TOKEN}", **attack.headers}
    body = attack.body
    if isinstance(body, dict):
        body = json.dumps(body).replace("{port}", str(server.port)).encode()
    started = time.monotonic()
    try:
        reply = server.send(attack.path, body, method=attack.method, **headers)
    except (ConnectionError, BrokenPipeError):
        # Cut while it was still sending: refused as well.
        assert attack.name == "too large"
    else:
        assert reply.status in attack.statuses, reply.body[:300]
        if reply.status >= 400:
            error = reply.json()["error"]
            message = error if isinstance(error, str) else error["message"]
            assert message and "\n" not in message and "Traceback" not in message
            assert "passwd" not in message
    assert time.monotonic() - started < 15
    assert alive(server)


def raw(
    server: RunningServer, *parts: bytes, pause: float = 0, wait: float = 10
) -> bytes:
    """What comes back when `parts` are sent with pauses in between; b"" if cut."""
    answer = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as link:
        try:
            for part in parts:
                link.sendall(part)
                time.sleep(pause)
            while data := link.recv(65536):
                answer += data
        except ConnectionError:
            pass
    return answer


HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
)


def test_a_slow_head_is_cut(server: RunningServer):
    started = time.monotonic()
    assert raw(server, *[b"G"] * 8, pause=0.3) == b""
    assert raw(server, b"GET / HTTP/1.1\r\n", *[b"a: b\r\n"] * 8, pause=0.3) == b""
    assert time.monotonic() - started < 12 and alive(server)


def test_a_connection_that_says_nothing_is_cut(server: RunningServer):
    assert raw(server) == b"" and alive(server)


def test_a_slow_body_is_refused(server: RunningServer):
    head = HEAD + b"Content-Length: 1000\r\n\r\n"
    answer = raw(server, head, *[b" "] * 4, pause=0.2)
    assert b" 408 " in answer.split(b"\r\n")[0] and alive(server)


def test_a_body_that_never_comes_is_refused(server: RunningServer):
    answer = raw(server, HEAD + b"Content-Length: 1000\r\n\r\n")
    assert b" 408 " in answer.split(b"\r\n")[0] and alive(server)


def test_an_endless_body_is_refused(server: RunningServer):
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    answer = raw(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 100)
    assert b" 413 " in answer.split(b"\r\n")[0] or answer == b""
    assert alive(server)


def test_a_body_that_lies_about_its_size(server: RunningServer):
    for size in (b"-1", b"9" * 30, b"abc", b"1, 2"):
        answer = raw(server, HEAD + b"Content-Length: " + size + b"\r\n\r\n{}", wait=5)
        assert answer.split(b" ")[1:2] in ([b"400"], [b"413"]), (size, answer)
    assert alive(server)


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # TLS
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\na: " + b"b" * 200_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET http://evil/ HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n",
        b"\r\n" * 1000,
    ],
    ids=[
        "TLS",
        "hostless",
        "two hosts",
        "HTTP 9",
        "bytes",
        "long",
        "h2",
        "proxy",
        "nil",
    ],
)
def test_a_malformed_head_is_refused(server: RunningServer, head: bytes):
    answer = raw(server, head)
    assert answer == b"" or 400 <= int(answer.split(b" ")[1]) < 500
    assert alive(server)


def test_a_websocket_is_not_spoken(server: RunningServer):
    head = (
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade, close\r\n"
    )
    answer = raw(
        server, head + b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 401 " in answer.split(b"\r\n")[0] and alive(server)


def test_a_reader_that_reads_nothing_is_cut(server: RunningServer):
    body = json.dumps(chat("Hi", max_tokens=400, stream=True)).encode()
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    with contextlib.closing(socket.socket()) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        link.connect(("127.0.0.1", server.port))
        link.sendall(head + body)
        assert alive(server)  # waits for its turn, and has it


def test_a_client_that_leaves_frees_its_place(server: RunningServer):
    body = json.dumps(chat("Hi", max_tokens=4000)).encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as link:
            link.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    started = time.monotonic()
    assert alive(server) and time.monotonic() - started < 10


def test_all_bodies_together_are_bounded(server: RunningServer):
    """Bodies that are nearly whole: more than all may hold at once."""
    links = []
    try:
        for _ in range(6):
            link = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            links.append(link)
            head = HEAD + b"Content-Length: %d\r\n\r\n" % (LIMITS.body - 1)
            sender = threading.Thread(
                target=lambda link=link, head=head: _send(link, head), daemon=True
            )
            sender.start()
            sender.join()
        answers = []
        for link in links:
            with contextlib.suppress(ConnectionError):
                answers.append(link.recv(65536).split(b" ")[1:2])
    finally:
        for link in links:
            link.close()
    assert [b"503"] in answers and [b"500"] not in answers
    assert alive(server)


def _send(link: socket.socket, head: bytes):
    with contextlib.suppress(ConnectionError):
        link.sendall(head + b" " * (LIMITS.body - 2))


def test_nothing_of_a_request_is_logged(server: RunningServer, caplog, capfd):
    secret = "the-secret-of-this-test"
    with caplog.at_level(0):
        for body in (
            chat(secret),
            at(f"http://{secret}.example/{secret}"),
            file(secret.encode()),
            chat("Hi") | {secret: 1},
            chat("Hi") | {"model": secret},
        ):
            server.send("/v1/chat/completions", body, authorization=f"Bearer {TOKEN}")
        server.send(f"/{secret}", authorization=f"Bearer {secret}", host=secret)
    shown = capfd.readouterr()
    assert secret not in caplog.text + shown.out + shown.err
