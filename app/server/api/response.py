"""Sends an answer, complete or streamed, and cancels it when the client disconnects."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from fastvlm_mlx.app.server.engine.answer_stream import AnswerStream, StreamEvent
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http.errors import APIError, api_error_from, busy
from fastvlm_mlx.generation.logprobs import TokenLogprob


class ResponseFormatter(Protocol):
    """Writes answers and errors in the format of one protocol."""

    media_type: str  # of a stream

    def complete(
        self, text: str, last: StreamEvent, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, object]:
        """The body of a complete response; `logprobs` are None unless asked for."""
        ...

    def event(self, event: StreamEvent) -> bytes:
        """The bytes of a stream for one event; may be empty."""
        ...

    def stream_error(self, error: APIError) -> bytes:
        """The bytes of a stream that fails after its start."""
        ...


class AnswerResponse:
    """An ASGI response that sends `answer` in the format of `formatter`.

    Nothing is sent before the first token: an error until then is raised as APIError,
    and the application's exception handler answers with its status.
    """

    def __init__(
        self,
        worker: Worker,
        answer: AnswerStream,
        formatter: ResponseFormatter,
        stream: bool,
    ):
        self._worker = worker
        self._answer = answer
        self._formatter = formatter
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        # The body was read, so the next message is the disconnect.
        watch = asyncio.create_task(self._watch(receive))
        try:
            if self._stream:
                await self._send_stream(send)
            else:
                await self._send_complete(send)
        finally:
            self._worker.abandon(self._answer)
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _watch(self, receive: Receive):
        while (await receive())["type"] != "http.disconnect":
            pass
        self._worker.abandon(self._answer)

    async def _send_complete(self, send: Send):
        text, last = "", None
        logprobs: list[TokenLogprob] = []
        async for last in self._answer:
            text += last.text
            logprobs += last.chunk.logprobs or ()
        if last is None:
            raise _abandoned()
        asked = last.chunk.logprobs is not None
        content = self._formatter.complete(text, last, logprobs if asked else None)
        response = JSONResponse(content)
        await _start(send, response.status_code, response.raw_headers)
        await send({"type": "http.response.body", "body": response.body})

    async def _send_stream(self, send: Send):
        started = False
        headers = [
            (b"content-type", self._formatter.media_type.encode()),
            (b"cache-control", b"no-store"),
        ]
        try:
            async for event in self._answer:
                if not started:
                    await _start(send, 200, headers)
                    started = True
                await _write(send, self._formatter.event(event))
        except Exception as error:
            if not started:
                raise
            await _write(send, self._formatter.stream_error(api_error_from(error)))
        if not started:
            raise _abandoned()
        await send({"type": "http.response.body", "body": b""})


def _abandoned() -> APIError:
    # By the client, who will not read this, or because the server shuts down.
    return busy("the request was given up before it was answered")


async def _start(send: Send, status: int, headers: list[tuple[bytes, bytes]]):
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _write(send: Send, data: bytes):
    if data:
        await send({"type": "http.response.body", "body": data, "more_body": True})
