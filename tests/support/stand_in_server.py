"""A stand-in for an OpenAI-compatible server, which answers as a test's script says."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What is sent: a status, a body, and the kind of its content."""

    status: int = 200
    body: Any = None
    kind: str = "application/json"


@dataclass
class StandIn:
    """A server at `url`; `asked` are the paths, keys and bodies of its requests."""

    url: str
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)


def completion(text: object, finish_reason: str = "stop") -> dict[str, Any]:
    """A chat completion that says `text`."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "peer",
        "choices": [choice],
    }


def question_in(body: dict[str, Any]) -> str:
    """The text of a request's last message."""
    return body["messages"][-1]["content"][-1]["text"]


@contextlib.contextmanager
def standing_in(script: Callable[[dict[str, Any], int], Reply]) -> Iterator[StandIn]:
    """Starts it; `script` gets a request's body and how many came before it."""
    stand_in = StandIn("")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers["Content-Length"])
            body = json.loads(self.rfile.read(length))
            with lock:
                before = len(stand_in.asked)
                key = self.headers.get("Authorization", "")
                stand_in.asked.append((self.path, key, body))
            reply = script(body, before)
            data = reply.body
            if not isinstance(data, bytes):
                data = json.dumps(data).encode()
            with contextlib.suppress(OSError):  # a client that did not wait
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    stand_in.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
