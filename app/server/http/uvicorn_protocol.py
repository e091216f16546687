"""uvicorn's HTTP/1.1 protocol with time-outs for slow heads and stalled readers."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from fastvlm_mlx.app.server.http.limits import Limits


def protocol_with_timeouts(
    limits: Limits, overloaded: Any = None, malformed: bytes = b""
) -> type[H11Protocol]:
    """The protocol class for `uvicorn.Config(http=...)`.

    A connection is aborted if its request head takes longer than `header_time`, or if
    it reads nothing of its response for `idle_time`. `overloaded`, an ASGI application,
    answers while more than `connections` are open; uvicorn's own answer to that is
    plain text, without Retry-After. `malformed` is the JSON that answers what is not
    HTTP.
    """

    class TimeoutH11Protocol(H11Protocol):
        _head: asyncio.TimerHandle | None = None
        _reader: asyncio.TimerHandle | None = None

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            if overloaded is not None:
                self._served, self.app = self.app, self._serve

        async def _serve(self, scope: Any, receive: Any, send: Any):
            is_full = len(self.connections) > limits.connections
            await (overloaded if is_full else self._served)(scope, receive, send)

        def connection_made(self, transport: asyncio.Transport):  # type: ignore
            super().connection_made(transport)
            self._expect_head()

        def data_received(self, data: bytes):
            super().data_received(data)
            self._expect_head()

        def connection_lost(self, exc: Exception | None):
            self._head = _cancelled(self._head)
            self._reader = _cancelled(self._reader)
            super().connection_lost(exc)

        def send_400_response(self, msg: str):
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(malformed)),
                (b"connection", b"close"),
            ]
            try:
                for event in (
                    h11.Response(status_code=400, headers=headers, reason=b""),
                    h11.Data(data=malformed),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            # A response has begun: the fault is in what follows its request.
            except h11.LocalProtocolError:
                self.transport.abort()
            self.transport.close()

        def shutdown(self):
            try:
                super().shutdown()
            # Its client broke the protocol; the others must be told all the same.
            except h11.LocalProtocolError:
                self.transport.abort()

        def pause_writing(self):
            super().pause_writing()
            self._reader = self.loop.call_later(limits.idle_time, self.transport.abort)

        def resume_writing(self):
            self._reader = _cancelled(self._reader)
            super().resume_writing()

        def _expect_head(self):
            if self.conn.their_state is not h11.IDLE:
                self._head = _cancelled(self._head)
            elif self._head is None and not self.transport.is_closing():
                self._head = self.loop.call_later(
                    limits.header_time, self.transport.abort
                )

    return TimeoutH11Protocol


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
