"""The end of `fastvlm-mlx serve`: signals to a real process with answers open."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("starlette")

SECONDS = 2.0  # from the first signal to the end


@dataclass
class Program:
    """The running command."""

    process: "subprocess.Popen[str]"
    port: int
    links: contextlib.ExitStack

    def send(self, path: str, body: Any) -> http.client.HTTPConnection:
        """Sends a request whose response can be read later."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        self.links.callback(link.close)
        link.request("POST", path, json.dumps(body))
        return link

    def connect(self, data: bytes) -> socket.socket:
        link = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        self.links.callback(link.close)
        link.sendall(data)
        return link

    def waiting(self) -> int:
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(link):
            link.request("GET", "/health")
            return json.load(link.getresponse())["waiting"]

    def end(self, *signals: int, pause: float = 0.0) -> float:
        """Sends the signals; returns how long the process lived from the first."""
        started = time.monotonic()
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            time.sleep(pause)
        self.process.wait(20)
        return time.monotonic() - started

    def shown(self) -> str:
        """All that the process wrote."""
        assert self.process.stderr is not None and self.process.stdout is not None
        return self.process.stderr.read() + self.process.stdout.read()


# A busy machine takes longer than the limit on checking a schema in a subprocess.
MAIN = (
    "from fastvlm_mlx.app.server.engine import schema_check\n"
    "async def check(self, schema):\n"
    "    pass\n"
    "schema_check.SchemaChecker.check = check\n"
    "from fastvlm_mlx.app.cli import main\n"
    "main(['serve', '-m', 'demo', '--port', '0', '--allow-url', '*'])"
)


@contextlib.contextmanager
def started(before: str = "") -> Iterator[Program]:
    """The command, after the Python of `before`; its first line is not read yet."""
    with (
        contextlib.ExitStack() as links,
        subprocess.Popen(
            [sys.executable, "-c", before + MAIN],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            yield Program(process, 0, links)
        finally:
            process.kill()


@contextlib.contextmanager
def serving(before: str = "") -> Iterator[Program]:
    """The command, once it takes requests."""
    with started(before) as program:
        assert program.process.stderr is not None
        match = re.search(r":(\d+)/", program.process.stderr.readline())
        assert match
        program.port = int(match[1])
        yield program


@pytest.fixture
def served() -> Iterator[Program]:
    with serving() as program:
        yield program


# An answer of seconds: the model is quick, and says little of its own accord.
LONG = {
    "type": "object",
    "properties": {
        "a": {"type": "array", "items": {"type": "integer"}, "minItems": 400}
    },
    "required": ["a"],
}


def chat(**fields: Any) -> dict[str, Any]:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": LONG}}
    messages = [{"role": "user", "content": "Count."}]
    return {
        "model": "demo",
        "max_tokens": 3000,
        "messages": messages,
        "response_format": form,
        **fields,
    }


def ollama(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Count."}]
    options = {"num_predict": 3000}
    asked = {"model": "demo", "format": LONG, "options": options}
    return {**asked, "messages": messages, **fields}


def wait_for(condition: Callable[[], bool]):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_refused(link: http.client.HTTPConnection, *, of_openai: bool):
    reply = link.getresponse()
    assert reply.status == 503 and int(reply.headers["Retry-After"]) > 0
    error = json.load(reply)["error"]
    if of_openai:
        assert error["code"] == "server_busy" and error["type"] == "server_error"
        error = error["message"]
    assert error == "the server is shutting down; try again once it is back"
    link.close()


def check_log(served: Program):
    shown = served.shown()
    assert "Traceback" not in shown and "Exception" not in shown
    assert "terminate" not in shown and " 500 " not in shown


# One signal, the same twice at all distances, and another one in between.
SIGNALS = {
    "SIGTERM": ([signal.SIGTERM], 0.0),
    "SIGINT": ([signal.SIGINT], 0.0),
    "SIGHUP": ([signal.SIGHUP], 0.0),
    "SIGINT twice at once": ([signal.SIGINT] * 2, 0.0),
    "SIGINT twice": ([signal.SIGINT] * 2, 0.15),
    "SIGTERM twice": ([signal.SIGTERM] * 2, 0.15),
    "SIGTERM and SIGINT": ([signal.SIGTERM, signal.SIGINT], 0.15),
    "SIGINT again and again": ([signal.SIGINT] * 40, 0.02),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_open_answers_end_as_documented(served: Program, name: str):
    of_openai = served.send("/v1/chat/completions", chat(stream=True)).getresponse()
    assert of_openai.status == 200 and of_openai.readline().startswith(b"data: {")
    queued = [
        (served.send("/v1/chat/completions", chat(stream=True)), True),
        (served.send("/v1/chat/completions", chat()), True),
        (served.send("/api/chat", ollama()), False),
        (served.send("/api/generate", {"model": "demo", "prompt": "Hi"}), False),
    ]
    wait_for(lambda: served.waiting() == 5)
    signals, pause = SIGNALS[name]
    took = served.end(*signals, pause=pause)
    events = of_openai.read().decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    error = json.loads(events[-2].removeprefix("data: "))["error"]
    assert error["code"] == "server_busy" and "shutting down" in error["message"]
    # No event pretends that the answer is whole.
    assert '"finish_reason":"' not in "".join(events)
    for link, kind in queued:
        check_refused(link, of_openai=kind)
    assert served.process.returncode == 0
    assert took < max(SECONDS, len(signals) * pause + 0.5)
    check_log(served)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", served.port), timeout=1)


def test_a_stream_of_ollama_ends_with_an_error(served: Program):
    reply = served.send("/api/chat", ollama()).getresponse()
    assert reply.status == 200 and json.loads(reply.readline())["done"] is False
    whole = served.send("/v1/chat/completions", chat())
    wait_for(lambda: served.waiting() == 2)
    assert served.end(signal.SIGTERM) < SECONDS
    last = json.loads(reply.read().splitlines()[-1])
    assert last["done"] is True and last["done_reason"] == "error"
    assert "shutting down" in last["error"]
    check_refused(whole, of_openai=True)
    check_log(served)


def test_a_whole_answer_that_was_cut_is_refused(served: Program):
    link = served.send("/v1/chat/completions", chat())
    wait_for(lambda: served.waiting() == 1)
    assert served.end(signal.SIGINT) < SECONDS
    check_refused(link, of_openai=True)
    assert served.process.returncode == 0


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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


def test_many_clients_are_all_told(served: Program):
    """Streams, whole answers and queued requests of both protocols at once."""
    ends: list[str] = []

    def ask(number: int):
        stream = number % 2 == 0
        path, body = (
            ("/v1/chat/completions", chat(stream=stream))
            if number % 4 < 2
            else ("/api/chat", ollama(stream=stream))
        )
        try:
            reply = served.send(path, body).getresponse()
            data = reply.read()
        except ConnectionError:
            ends.append("connection")  # it came after the end
            return
        if reply.status == 503:
            ends.append("503" if reply.headers["Retry-After"] else "no Retry-After")
        elif not stream:
            ends.append("whole")
        elif path.startswith("/v1"):
            ends.append("ended" if data.endswith(b"data: [DONE]\n\n") else "cut")
        else:
            ends.append("ended" if json.loads(data.splitlines()[-1])["done"] else "cut")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    wait_for(lambda: served.waiting() > 10)
    took = served.end(signal.SIGINT, signal.SIGINT, pause=0.1)
    for thread in threads:
        thread.join()
    assert took < SECONDS and served.process.returncode == 0
    assert set(ends) <= {"503", "whole", "ended", "connection"} and "503" in ends
    check_log(served)
