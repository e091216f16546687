"""Refuses the requests that are still unanswered when the server shuts down."""

import asyncio
from collections.abc import Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastvlm_mlx.app.server.http.errors import APIError, busy


def shutting_down() -> APIError:
    """503: the server ends; another one may answer soon."""
    return busy("the server is shutting down; try again once it is back")


class OpenRequests:
    """The requests to which no response has started; use it on the event loop."""

    def __init__(self):
        self.closed = False
        self._tasks: set[asyncio.Task[object]] = set()

    def add(self, task: "asyncio.Task[object]"):
        """Notes the task of a request."""
        self._tasks.add(task)

    def discard(self, task: "asyncio.Task[object]"):
        """Forgets a request whose response started or that ended."""
        self._tasks.discard(task)

    def close(self):
        """Cancels the requests, wherever they wait, and all that come later."""
        self.closed = True
        for task in list(self._tasks):
            task.cancel()


class ShutdownMiddleware:
    """Answers 503 to the requests that `requests.close()` cancels.

    They may wait for their body, an image from its URL, or their turn. A response that
    has started is left alone: the worker ends it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        requests: OpenRequests,
        error_response: Callable[[APIError, str], Response],
    ):
        self._app = app
        self._requests = requests
        self._error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return
        started = False

        async def send_and_note(message: Message):
            nonlocal started
            started = True
            self._requests.discard(task)
            await send(message)

        if not self._requests.closed:
            self._requests.add(task)
            try:
                await self._app(scope, receive, send_and_note)
                return
            except asyncio.CancelledError:
                if started or not self._requests.closed:
                    raise
            finally:
                self._requests.discard(task)
            if hasattr(task, "uncancel"):  # since Python 3.11
                task.uncancel()
        response = self._error_response(shutting_down(), scope["path"])
        await response(scope, receive, send)
