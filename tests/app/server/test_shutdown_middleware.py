"""The middleware that answers 503 to the requests that a shutdown cancels."""

import asyncio
from collections.abc import Callable
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

        self.respond: Callable[[APIError, str], Response] = refusal
        middleware = ShutdownMiddleware(
            app,
            requests=requests,
            error_response=lambda error, path: self.respond(error, path),
        )
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
            await finished(each.task)
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


async def finished(task: "asyncio.Task[Any]") -> None:
    """Waits without cancelling, as `wait_for` would: the refusal is its answer."""
    done, _ = await asyncio.wait({task}, timeout=5)
    assert done


async def ended(task: "asyncio.Task[Any]") -> None:
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)


def test_a_request_that_something_else_cancels_is_not_refused():
    async def run() -> None:
        requests = OpenRequests()
        gone = Sent("http", requests)
        await asyncio.wait_for(gone.reached.wait(), 5)
        gone.task.cancel()
        await ended(gone.task)
        assert gone.messages == []
        # Nor is anything left to be cancelled.
        requests.close()
        assert requests.closed and not requests._tasks

    asyncio.run(run())


def test_a_response_that_has_begun_is_not_refused():
    async def run() -> None:
        requests = OpenRequests()
        answered = Sent("http", requests, starts=True)
        await asyncio.wait_for(answered.reached.wait(), 5)
        requests.close()
        answered.task.cancel()
        await ended(answered.task)
        assert [each["type"] for each in answered.messages] == ["http.response.start"]

    asyncio.run(run())


def test_the_refusal_may_wait_itself():
    """The task counts as cancelled no more: what it awaits next is not cut."""

    async def run() -> None:
        requests = OpenRequests()
        waiting = Sent("http", requests)
        await asyncio.wait_for(waiting.reached.wait(), 5)
        counts: list[int] = []

        class Slow(Response):
            async def __call__(self, *arguments: Any) -> None:
                if hasattr(waiting.task, "cancelling"):  # since Python 3.11
                    counts.append(waiting.task.cancelling())
                await asyncio.sleep(0)
                await super().__call__(*arguments)

        waiting.respond = lambda error, path: Slow(status_code=error.status)
        requests.close()
        await finished(waiting.task)
        assert waiting.status == 503 and not any(counts) and not requests._tasks

    asyncio.run(run())
