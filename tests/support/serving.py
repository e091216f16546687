"""A server over the tiny reference model, for the tests of `serve`."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm_mlx.app import session
from fastvlm_mlx.app.server import serve
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http.limits import Limits
from fastvlm_mlx.app.server.routes import build


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class RunningServer:
    """A server that listens at `port` of 127.0.0.1 and answers as "tiny"."""

    port: int
    worker: Worker

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        **headers: str,
    ) -> Response:
        """One request on a connection of its own; `body` is bytes or becomes JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers.setdefault("content_type", "application/json")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(
                method or ("GET" if body is None else "POST"), path, body, named
            )
            answer = connection.getresponse()
            return Response(answer.status, dict(answer.getheaders()), answer.read())

    def ask(self, text: str = "Say something.", **fields: Any) -> Response:
        """A chat of one message through OpenAI's protocol."""
        messages = [{"role": "user", "content": text}]
        body = {"model": "tiny", "messages": messages, "max_tokens": 4, **fields}
        return self.send("/v1/chat/completions", body)


@contextlib.contextmanager
def running(
    model: Path,
    *,
    limits: Limits | None = None,
    token: str | None = None,
    image_hosts: tuple[str, ...] = (),
    adapters: Sequence[Path] = (),
    any_name: bool = False,
) -> Iterator[RunningServer]:
    """Starts a server and stops it in the end."""
    limits = limits or Limits()
    listener = serve.listen("127.0.0.1", 0)

    def load_engine():
        from fastvlm_mlx import load
        from fastvlm_mlx.adapters.apply import with_adapter
        from fastvlm_mlx.app.server.engine.engine import Engine

        loaded = load(model)
        found = session.read_adapters(adapters)
        tuned = {name: with_adapter(loaded, each) for name, each in found.items()}
        return Engine("tiny", loaded, limits, tuned)

    worker = Worker(load_engine, limits)
    worker.start()
    options = serve.Options(None, "127.0.0.1", 0, token)
    app = build(
        worker,
        hosts=serve.known_names(options),
        token=token,
        image_hosts=image_hosts,
        any_name=any_name,
    )
    server = serve.make_server(app, limits)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        yield RunningServer(listener.getsockname()[1], worker)
    finally:
        server.should_exit = True
        thread.join()
        worker.close()
        listener.close()
