"""uvicorn's protocol and server with our time-outs, on a transport of the test."""

import asyncio
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("starlette")

import uvicorn  # noqa: E402
from uvicorn.server import ServerState  # noqa: E402

from fastvlm_mlx.app.server.http import uvicorn_server  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.app.server.http.uvicorn_protocol import (  # noqa: E402
    protocol_with_timeouts,
)

HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
LIMITS = Limits(header_time=7.0, idle_time=11.0, connections=2)


class Timer:
    """A call that the loop was asked for."""

    def __init__(self, seconds: float, callback: Callable[[], None]):
        self.seconds, self.callback, self.cancelled = seconds, callback, False

    def cancel(self):
        self.cancelled = True


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written, self.ends = b"", []

    def write(self, data: Any):
        self.written += data

    def close(self):
        self.ends.append("close")

    def abort(self):
        self.ends.append("abort")

    def is_closing(self) -> bool:
        return bool(self.ends)

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


class Task:
    """One that never runs."""

    def add_done_callback(self, callback: Any):
        pass


class Slow:
    """A connection whose client reads nothing."""

    def __init__(self):
        self.transport = Transport()


class Connection:
    """A protocol on a loop that runs nothing by itself."""

    def __init__(self, **options: Any):
        self.timers: list[Timer] = []
        self.asked: list[str] = []
        self.transport = Transport()

        async def served(scope: Any, receive: Any, send: Any):
            self.asked.append("served")

        config = uvicorn.Config(served, log_config=None, lifespan="off")
        config.load()
        made = protocol_with_timeouts(LIMITS, **options)
        loop = SimpleNamespace(call_later=self._later, create_task=self._task)
        self.protocol = made(config, ServerState(), {}, _loop=cast(Any, loop))
        self.protocol.connection_made(self.transport)

    def _later(self, seconds: float, callback: Callable[[], None], *rest: Any) -> Timer:
        self.timers.append(Timer(seconds, callback))
        return self.timers[-1]

    def _task(self, coroutine: Any) -> Any:
        coroutine.close()
        return Task()

    def receive(self, data: bytes):
        self.protocol.data_received(data)

    @property
    def open_timers(self) -> list[float]:
        return [timer.seconds for timer in self.timers if not timer.cancelled]


def test_a_head_has_its_time():
    link = Connection()
    assert link.open_timers == [7.0]
    link.receive(HEAD[:9])
    assert link.open_timers == [7.0] and len(link.timers) == 1  # not anew
    link.timers[0].callback()
    assert link.transport.ends == ["abort"]
    link.receive(b"")
    assert len(link.timers) == 1


def test_a_whole_head_ends_the_wait():
    link = Connection()
    link.receive(HEAD)
    assert link.open_timers == []


def test_a_closed_connection_waits_for_no_head():
    link = Connection()
    link.receive(HEAD)
    link.transport.close()
    link.protocol._expect_head()
    assert link.open_timers == []


def test_a_reader_that_stalls_has_its_time():
    link = Connection()
    link.receive(HEAD)
    link.protocol.pause_writing()
    assert link.open_timers == [11.0] and link.protocol.flow.write_paused
    link.protocol.resume_writing()
    assert link.open_timers == [] and not link.protocol.flow.write_paused
    link.protocol.pause_writing()
    link.timers[-1].callback()
    assert link.transport.ends == ["abort"]


def test_a_lost_connection_leaves_no_timers():
    link = Connection()
    link.protocol.pause_writing()
    assert sorted(link.open_timers) == [7.0, 11.0]
    link.protocol.connection_lost(None)
    assert link.open_timers == []
    assert link.protocol not in link.protocol.connections


def test_what_is_not_http_is_told_so_in_json():
    link = Connection(malformed=b'{"no": 1}')
    link.receive(b"nonsense\r\n\r\n")
    head, _, body = link.transport.written.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 400 ", head) and body == b'{"no": 1}'
    lines = head.lower().split(b"\r\n")[1:]
    assert sorted(lines) == [
        b"connection: close",
        b"content-length: 9",
        b"content-type: application/json",
    ]
    assert link.transport.ends == ["close"]


def test_no_second_answer_after_one_has_begun():
    link = Connection(malformed=b"{}")
    link.protocol.send_400_response("")
    written = link.transport.written
    link.protocol.send_400_response("")
    assert link.transport.written == written
    assert link.transport.ends == ["close", "abort", "close"]


def test_a_shutdown_outlives_a_client_that_broke_the_protocol():
    link = Connection()
    link.protocol.shutdown()
    assert link.transport.ends == ["close"]  # uvicorn's own end
    broken = Connection()
    broken.protocol.conn.send_failed()
    broken.protocol.shutdown()
    assert broken.transport.ends == ["abort"]


@pytest.mark.parametrize(
    ("count", "answered"), [(1, "served"), (2, "served"), (3, "full")]
)
def test_connections_above_the_limit_get_another_answer(count: int, answered: str):
    async def full(scope: Any, receive: Any, send: Any):
        link.asked.append("full")

    link = Connection(overloaded=full)
    link.protocol.connections.clear()
    link.protocol.connections.update(cast(Any, range(count)))
    asyncio.run(cast(Any, link.protocol.app)({"type": "http"}, None, None))
    assert link.asked == [answered]


def test_without_another_answer_the_application_serves():
    link = Connection()
    asyncio.run(cast(Any, link.protocol.app)({"type": "http"}, None, None))
    assert link.asked == ["served"]


def test_a_server_starts_and_stops_what_it_is_given(monkeypatch):
    steps: list[str] = []

    async def startup(self: Any, sockets: Any = None):
        steps.append(f"listens at {sockets}")

    async def shutdown(self: Any, sockets: Any = None):
        steps.append(f"ends {sockets}")

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    monkeypatch.setattr(uvicorn.Server, "shutdown", shutdown)
    config = uvicorn.Config(cast(Any, None), log_config=None)
    server = uvicorn_server.Server(
        config, lambda: steps.append("start"), lambda: steps.append("stop")
    )
    slow = Slow()
    server.server_state.connections.add(cast(Any, slow))

    async def run(server: uvicorn_server.Server):
        await server.startup(cast(Any, [5]))
        await server.shutdown(cast(Any, [5]))

    asyncio.run(run(server))
    assert steps == ["listens at [5]", "start", "stop", "ends [5]"]
    assert slow.transport.ends == ["abort"]
    steps.clear()
    asyncio.run(run(uvicorn_server.Server(config)))
    assert steps == ["listens at [5]", "ends [5]"]


def test_signals_are_not_the_servers_concern(monkeypatch):
    def handle(*arguments: Any):
        raise AssertionError("a handler was set")

    monkeypatch.setattr("signal.signal", handle)
    server = uvicorn_server.Server(uvicorn.Config(cast(Any, None), log_config=None))
    with server.capture_signals():
        pass
