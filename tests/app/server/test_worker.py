"""The queue and the model's thread, with an engine that takes its time."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, cast

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.engine.answer_stream import (  # noqa: E402
    AnswerStream,
    StreamEvent,
)
from fastvlm_mlx.app.server.engine.request import (  # noqa: E402
    GenerationRequest,
    Message,
    ModelInfo,
)
from fastvlm_mlx.app.server.engine.worker import Worker  # noqa: E402
from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.generation.stream import Chunk, Timings  # noqa: E402

REQUEST = GenerationRequest((Message("user", "Hi"),))
LONGEST = 10.0  # seconds; every wait of these tests is far shorter


class SlowEngine:
    """An answer is a chunk every 10 ms, until it is cancelled; then one chunk more."""

    def models(self) -> tuple[ModelInfo, ...]:
        return (ModelInfo("slow", 100, "none", 0, 0, None, False),)

    def stream(
        self, request: GenerationRequest, cancel: threading.Event
    ) -> Iterator[Chunk]:
        end = time.monotonic() + LONGEST
        while not cancel.wait(0.01):
            assert time.monotonic() < end
            yield chunk("a")
        yield chunk("", "cancelled")

    def release_memory(self):
        pass


def chunk(text: str, finish_reason: str | None = None) -> Chunk:
    return Chunk(text, None, 1, 0, 0, 0, 1, 0, 0, 0, Timings(), finish_reason)


def with_worker(
    test: Callable[[Worker], Coroutine[Any, Any, None]], **limits: Any
) -> None:
    """Runs `test` on an event loop, with a worker that answers slowly."""
    batch = limits.pop("batch", 1)
    worker = Worker(lambda: cast(Any, SlowEngine()), Limits(**limits), batch)
    worker.start()

    async def run():
        await asyncio.wait_for(test(worker), LONGEST)

    try:
        asyncio.run(run())
    finally:
        worker.close()


async def read(answer: AnswerStream) -> list[StreamEvent]:
    return [event async for event in answer]


async def taken_up(worker: Worker, answer: AnswerStream):
    while answer not in worker._active:
        await asyncio.sleep(0.005)


def test_an_answer_ends_when_its_time_is_up():
    async def test(worker: Worker):
        started = time.monotonic()
        events = await read(worker.submit(REQUEST))
        assert 0.2 <= time.monotonic() - started < 2
        assert len(events) > 2
        assert [event.finish_reason for event in events[-2:]] == [None, "length"]

    with_worker(test, answer_time=0.2)


def test_the_queue_is_within_the_answers_time():
    async def test(worker: Worker):
        first = worker.submit(REQUEST)
        await taken_up(worker, first)
        second = worker.submit(REQUEST)
        worker.limits = Limits(answer_time=LONGEST)
        third = worker.submit(REQUEST)
        first.deadline += 0.3
        assert (await read(first))[-1].finish_reason == "length"
        with pytest.raises(APIError, match="waited too long in the queue") as caught:
            await read(second)
        assert caught.value.status == 503 and caught.value.retry
        await taken_up(worker, third)
        worker.abandon(third)
        events = await read(third)
        assert events[0].timings()["queue"] > 0.2
        assert events[0].ttft >= events[0].queued > 0.2

    with_worker(test, answer_time=0.2)


def test_an_answer_that_is_given_up_in_the_queue_ends():
    async def test(worker: Worker):
        first, second, third = (worker.submit(REQUEST) for _ in range(3))
        await taken_up(worker, first)
        assert worker.waiting == 3
        worker.abandon(second)
        assert await read(second) == [] and worker.waiting == 2
        worker.abandon(first)
        await read(first)
        await taken_up(worker, third)  # the next in line is served
        worker.abandon(third)
        await read(third)
        worker.abandon(third)  # once more, when it is long gone
        while worker.waiting:
            await asyncio.sleep(0.005)

    with_worker(test)


def test_stopping_fails_every_answer_and_takes_no_more():
    async def test(worker: Worker):
        answers = [worker.submit(REQUEST) for _ in range(3)]
        await taken_up(worker, answers[0])
        worker.stop()
        worker.stop()
        for answer in answers:
            with pytest.raises(APIError, match="shutting down") as caught:
                await read(answer)
            assert caught.value.status == 503 and caught.value.retry
        with pytest.raises(APIError, match="shutting down"):
            worker.submit(REQUEST)

    with_worker(test)


def test_an_answer_without_a_reader_is_cancelled():
    async def submit() -> AnswerStream:
        return AnswerStream(REQUEST, 1)

    answer = asyncio.run(submit())
    assert not answer.cancel.is_set()
    answer.put(chunk("a"))  # its event loop is closed
    assert answer.cancel.is_set()


def test_the_queue_has_an_end():
    async def test(worker: Worker):
        first = worker.submit(REQUEST)
        await taken_up(worker, first)
        worker.submit(REQUEST)
        worker.submit(REQUEST)
        with pytest.raises(APIError, match="2 requests are waiting already") as caught:
            worker.submit(REQUEST)
        assert caught.value.status == 503 and caught.value.retry

    with_worker(test, waiting=2)


def test_memory_is_returned_once_when_nobody_asks(monkeypatch):
    """Not while requests come, and once until the next one."""
    released: list[float] = []
    waits: list[float | None] = []
    worker = Worker(lambda: cast(Any, None))

    class Change(threading.Condition):
        """Nobody asks for two waits, then something stirs, then there is a request."""

        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            if len(waits) == 4:
                worker._queue.append(cast(Any, "request"))
            return len(waits) in (1, 3, 4)

    engine = cast(Any, SlowEngine())
    monkeypatch.setattr(engine, "release_memory", lambda: released.append(len(waits)))
    worker._change = Change()
    assert worker._wait(engine) and worker._queue.popleft() == "request"
    idle = waits[0]
    assert idle in (5.0, 120.0) and waits == [idle, idle, None, None]
    assert released == [2]  # not when it was only stirred, as the first time
    worker._closed = True
    assert not worker._wait(engine)
    worker._active.append(cast(Any, "answer"))
    assert worker._wait(engine)  # what is in progress ends first


class CountingEngine(SlowEngine):
    """An answer is two pieces of work and four chunks; `log` says whose, in order."""

    def __init__(self):
        self.log: list[str] = []
        self.hold = threading.Event()

    def stream(
        self, request: GenerationRequest, cancel: threading.Event
    ) -> Iterator[Chunk | None]:
        name = request.messages[0].text
        assert self.hold.wait(LONGEST)
        for _ in range(2):
            self.log.append(f"{name} works")
            yield None
        for number in range(4):
            self.log.append(name)
            if name == "bad" and number == 1:
                raise MemoryError
            yield chunk("a", "stop" if number == 3 or cancel.is_set() else None)


def order(batch: int, *names: str) -> list[str]:
    """What an engine does for requests that arrive at once."""
    engine = CountingEngine()
    worker = Worker(lambda: cast(Any, engine), Limits(), batch)
    worker.start()

    async def run():
        answers = [
            worker.submit(GenerationRequest((Message("user", name),))) for name in names
        ]
        engine.hold.set()
        for name, answer in zip(names, answers, strict=True):
            if name == "bad":
                with pytest.raises(APIError):
                    await read(answer)
            else:
                assert len(await read(answer)) == 4
        assert worker.waiting == 0

    try:
        asyncio.run(asyncio.wait_for(run(), LONGEST))
    finally:
        worker.close()
    return engine.log


def test_one_piece_of_work_between_two_steps_of_the_others():
    assert order(8, "A", "B", "C") == [
        *("A works", "A works", "A"),
        *("A", "B works", "A", "B works", "A", "B"),
        *("B", "C works", "B", "C works", "B", "C"),
        *("C", "C", "C"),
    ]


def test_no_more_than_the_batch_is_in_progress():
    log = order(2, "A", "B", "C", "D")
    assert log.index("C works") > max(i for i, name in enumerate(log) if name == "A")
    assert log.index("D works") > max(i for i, name in enumerate(log) if name == "B")
    one = order(1, "A", "B")
    assert one == [*2 * ["A works"], *4 * "A", *2 * ["B works"], *4 * "B"]


def test_an_answer_that_fails_leaves_the_others_alone():
    log = order(8, "A", "bad", "C")
    assert log.count("A") == log.count("C") == 4 and log.count("bad") == 2
