"""uvicorn's server, which ends open answers first when it shuts down."""

import contextlib
import socket
from collections.abc import Callable, Generator

import uvicorn

GRACE = 1  # seconds that open connections have to take what is sent to them


class Server(uvicorn.Server):
    """Runs `start` once it takes connections, and `stop` as the first step of its end.

    Both are called on the event loop.

    Signals are `stop_signals.StopSignals`' concern: uvicorn's own handlers would drop
    everything at the second one, and raise the first one again in the end.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        start: Callable[[], None] | None = None,
        stop: Callable[[], None] | None = None,
    ):
        super().__init__(config)
        self._start = start
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None):
        await super().startup(sockets)
        if self._start is not None:
            self._start()

    async def shutdown(self, sockets: list[socket.socket] | None = None):
        if self._stop is not None:
            self._stop()
        await super().shutdown(sockets)
        # Those that did not read to the end.
        for connection in list(self.server_state.connections):
            connection.transport.abort()  # type: ignore[union-attr]

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
