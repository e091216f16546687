"""The middleware that answers 503 to the requests that a shutdown cancels."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("starlette")

from starlette.responses import PlainTextResponse, Response  # noqa: E402

from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402
from fastvlm_mlx.app.server.http.shutdown import (  # noqa: E402
    OpenRequests,
    ShutdownMiddleware,
)


def refusal(error: APIError, path: str) -> Response:
    return PlainTextResponse(f"{path}: {error.message}", error.status)


class Sent:
    """A request of a `kind`, and the messages that the client got."""

    def __init__(self, kind: str, requests: OpenRequests, *, starts: bool = False):
        self.reached = asyncio.Event()
        self.messages: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if starts:
                await send({"type": "http.response.start", "status": 200})
            self.reached.set()
            await asyncio.sleep(30)

        middleware = ShutdownMiddleware(app, requests=requests, error_response=refusal)
        scope = {"type": kind, "path": "/v1/x"}

        async def send(message: Any) -> None:
            self.messages.append(message)

        self.task = asyncio.create_task(middleware(scope, None, send))  # type: ignore[arg-type]

    @property
    def status(self) -> int:
        return self.messages[0]["status"]


def test_requests_without_a_response_are_refused():
    async def run() -> None:
        requests = OpenRequests()
        waiting = Sent("http", requests)
        answered = Sent("http", requests, starts=True)
        lifespan = Sent("lifespan", requests)
        for each in (waiting, answered, lifespan):
            await asyncio.wait_for(each.reached.wait(), 5)
        requests.close()
        late = Sent("http", requests)
        for each in (waiting, late):
            await asyncio.wait_for(each.task, 5)
            assert each.status == 503
            assert each.messages[1]["body"].startswith(b"/v1/x: the server is shutting")
        assert not late.reached.is_set()
        # These end by themselves.
        assert answered.status == 200 and len(answered.messages) == 1
        assert lifespan.messages == []
        for each in (answered, lifespan):
            assert not each.task.done()
            each.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await each.task

    asyncio.run(run())
