"""The reply to a question: whole or streamed, ended when the client goes away."""

import asyncio
import contextlib
from typing import Protocol

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from fastvlm_mlx.app.server.engine.answer_stream import AnswerStream, StreamEvent
from fastvlm_mlx.app.server.engine.worker import Worker
from fastvlm_mlx.app.server.http.errors import APIError, api_error_from, busy


class ResponseFormatter(Protocol):
    """How a protocol writes an answer down."""

    media_type: str  # of a stream

    def whole(self, text: str, last: StreamEvent) -> dict[str, object]:
        """The reply in one."""
        ...

    def piece(self, piece: StreamEvent) -> bytes:
        """What a stream says of one piece; may be nothing."""
        ...

    def broken(self, refusal: APIError) -> bytes:
        """What a stream that has begun says when it fails."""
        ...

    def refused(self, refusal: APIError) -> dict[str, object]:
        """The reply to a request that is refused."""
        ...


def refuse(writer: ResponseFormatter, refusal: APIError) -> JSONResponse:
    """The response to a request that is refused."""
    return JSONResponse(
        writer.refused(refusal), refusal.status, headers=refusal.headers
    )


class AnswerResponse:
    """An ASGI response that writes `answer` down with `writer`.

    Nothing is sent before the first token, so what fails until then has its status.
    """

    def __init__(
        self,
        worker: Worker,
        answer: AnswerStream,
        writer: ResponseFormatter,
        stream: bool,
    ):
        self._worker = worker
        self._answer = answer
        self._writer = writer
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        # The body is read, so the next message says that the client has gone.
        watch = asyncio.create_task(self._watch(receive))
        try:
            await (self._in_pieces(send) if self._stream else self._at_once(send))
        except APIError as refusal:
            await refuse(self._writer, refusal)(scope, receive, send)
        finally:
            self._worker.leave(self._answer)
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _watch(self, receive: Receive):
        while (await receive())["type"] != "http.disconnect":
            pass
        self._worker.leave(self._answer)

    async def _at_once(self, send: Send):
        text, last = "", None
        async for last in self._answer:
            text += last.text
        if last is None:
            raise _given_up()
        response = JSONResponse(self._writer.whole(text, last))
        await _start(send, response.status_code, response.raw_headers)
        await send({"type": "http.response.body", "body": response.body})

    async def _in_pieces(self, send: Send):
        begun = False
        headers = [
            (b"content-type", self._writer.media_type.encode()),
            (b"cache-control", b"no-store"),
        ]
        try:
            async for piece in self._answer:
                if not begun:
                    await _start(send, 200, headers)
                    begun = True
                await _write(send, self._writer.piece(piece))
        except Exception as error:
            if not begun:
                raise
            await _write(send, self._writer.broken(api_error_from(error)))
        if not begun:
            raise _given_up()
        await send({"type": "http.response.body", "body": b""})


def _given_up() -> APIError:
    # By the client, who will not read this, or because the server ends.
    return busy("the request was given up before it was answered")


async def _start(send: Send, status: int, headers: list[tuple[bytes, bytes]]):
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _write(send: Send, data: bytes):
    if data:
        await send({"type": "http.response.body", "body": data, "more_body": True})
