"""A server on 127.0.0.1 that keeps what is posted to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """What it answers: a status, and where to look instead."""

    status: int = 200
    location: str | None = None


@dataclass
class Posts:
    """`received` are the path, headers and body of each POST."""

    url: str
    received: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def posts(reply: Reply = Reply()) -> Iterator[Posts]:  # noqa: B008
    """Runs the server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.received.append((self.path, dict(self.headers), body))
            self.send_response(reply.status)
            if reply.location is not None:
                self.send_header("Location", reply.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Posts(f"http://127.0.0.1:{server.server_port}/hook?a=1")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
