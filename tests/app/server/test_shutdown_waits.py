"""The end of `fastvlm-mlx serve` waits for nothing: clients, images, the model."""

import http.client
import json
import signal
import socket
import time

import pytest

pytest.importorskip("starlette")

from tests.support.serve_process import (  # noqa: E402
    SECONDS,
    Program,
    chat,
    check_log,
    check_refused,
    serving,
    started,
    wait_for,
)

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


def test_what_clients_leave_open_delays_nothing(served: Program):
    idle = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    idle.request("GET", "/health")
    assert idle.getresponse().read()
    for data in (b"", b"GET / HTTP/1.1\r\nHost: local", b"not HTTP at all\r\n\r\n"):
        served.connect(data)
    half = served.connect(HEAD + b"Content-Length: 1000\r\n\r\n{")
    # This one asks for much and reads nothing.
    body = json.dumps(chat(stream=True)).encode()
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    stuck.connect(("127.0.0.1", served.port))
    stuck.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    wait_for(lambda: served.waiting() == 1)
    time.sleep(0.5)
    assert served.end(signal.SIGTERM) < SECONDS
    assert served.process.returncode == 0
    with half:
        reply = http.client.HTTPResponse(half)
        reply.begin()
        assert reply.status == 503 and reply.headers["Retry-After"]
        assert "shutting down" in json.load(reply)["error"]["message"]
    idle.close()
    stuck.close()
    check_log(served)


def test_an_image_that_is_fetched_delays_nothing():
    """A host that never answers, in a thread that cannot be interrupted."""
    before = (
        "import time\n"
        "from fastvlm_mlx.app.server.engine import fetch\n"
        "def read(self, url):\n"
        "    print('fetching', flush=True)\n"
        "    time.sleep(60)\n"
        "fetch.Fetcher.read = read\n"
    )
    with serving(before) as served:
        url = {"url": "http://example.com/a.png"}
        content = [{"type": "image_url", "image_url": url}]
        messages = [{"role": "user", "content": content}]
        link = served.send("/v1/chat/completions", chat(messages=messages))
        assert served.process.stdout is not None
        assert served.process.stdout.readline() == "fetching\n"
        assert served.end(signal.SIGTERM) < SECONDS
        check_refused(link, of_openai=True)
        assert served.process.returncode == 0


def test_a_model_that_takes_its_time_delays_nothing():
    """The model's thread cannot be interrupted: a long prompt of a large model."""
    before = (
        "import time\n"
        "from fastvlm_mlx.app.server.engine import engine\n"
        "def stream(*_):\n"
        "    time.sleep(60)\n"
        "    yield\n"
        "engine.Engine.stream = stream\n"
    )
    with serving(before) as served:
        links = [served.send("/v1/chat/completions", chat()) for _ in range(3)]
        wait_for(lambda: served.waiting() == 3)
        assert served.end(signal.SIGTERM, signal.SIGTERM) < SECONDS
        for link in links:
            check_refused(link, of_openai=True)
        assert served.process.returncode == 0 and "terminate" not in served.shown()


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_while_the_model_is_loaded(number: int):
    before = (
        "import time\n"
        "from fastvlm_mlx.app.server.engine import engine\n"
        "def load(*_):\n"
        "    print('loading', flush=True)\n"
        "    time.sleep(60)\n"
        "engine.Engine.__init__ = load\n"
    )
    with started(before) as program:
        assert program.process.stdout is not None
        assert program.process.stdout.readline() == "loading\n"
        assert program.end(number, number) < SECONDS
        assert program.process.returncode == 128 + number
        assert program.shown() == ""


def test_nohup_is_respected():
    before = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with serving(before) as served:
        served.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert served.waiting() == 0
        served.end(signal.SIGINT)
        assert served.process.returncode == 0


def test_the_address_is_shown_once_requests_are_taken():
    """Who connects at the sight of it is told of an end that comes soon after."""
    before = (
        "import os, uvicorn\n"
        "startup = uvicorn.Server.startup\n"
        "async def slow(*args, **options):\n"
        "    await startup(*args, **options)\n"
        "    os.write(2, b'started\\n')\n"
        "uvicorn.Server.startup = slow\n"
    )
    with started(before) as program:
        assert program.process.stderr is not None
        assert program.process.stderr.readline() == "started\n"
        assert " is served at http://" in program.process.stderr.readline()
        assert program.end(signal.SIGTERM) < SECONDS
