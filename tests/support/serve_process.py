"""`fastvlm-mlx serve` as a process that gets signals, with answers that take long."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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


# Tests that run under nohup ignore SIGHUP, and a child inherits that.
FIRST = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
# A busy machine takes longer than the limit on checking a schema in a subprocess.
MAIN = (
    "from fastvlm_mlx.app.server.engine import schema_check\n"
    "async def check(self, schema, field):\n"
    "    pass\n"
    "schema_check.SchemaChecker.check = check\n"
    "from fastvlm_mlx.app.cli import main\n"
    "main(['serve', '-m', 'demo', '--port', '0', '--batch', '1', '--allow-url', '*'])"
)


@contextlib.contextmanager
def started(before: str = "") -> Iterator[Program]:
    """The command, after the Python of `before`; its first line is not read yet."""
    with (
        contextlib.ExitStack() as links,
        subprocess.Popen(
            [sys.executable, "-c", FIRST + before + MAIN],
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


def messages(**fields: Any) -> dict[str, Any]:
    """A body of Anthropic's protocol."""
    form = {"type": "json_schema", "schema": LONG}
    asked = {"model": "demo", "output_config": {"format": form}, "max_tokens": 3000}
    return {**asked, "messages": [{"role": "user", "content": "Count."}], **fields}


def response(**fields: Any) -> dict[str, Any]:
    """A body of /v1/responses."""
    form = {"type": "json_schema", "name": "x", "schema": LONG}
    asked = {"model": "demo", "text": {"format": form}, "max_output_tokens": 3000}
    return {**asked, "input": "Count.", **fields}


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
