"""An answer in progress, its times and its end; what an engine does with a request."""

import asyncio
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.engine import answer_stream, engine  # noqa: E402
from fastvlm_mlx.app.server.engine.answer_stream import (  # noqa: E402
    AnswerStream,
    StreamEvent,
)
from fastvlm_mlx.app.server.engine.engine import Engine  # noqa: E402
from fastvlm_mlx.app.server.engine.request import (  # noqa: E402
    GenerationRequest,
    Message,
    names_model,
)
from fastvlm_mlx.app.server.http.errors import APIError  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.conversation.prompt_cache import LIMIT  # noqa: E402
from fastvlm_mlx.errors import OptionError  # noqa: E402
from fastvlm_mlx.generation.stream import Chunk, Timings  # noqa: E402
from tests.support.mock_model import MockModel  # noqa: E402

REQUEST = GenerationRequest((Message("user", "Hi"),), names={"top_k": "topK"})
CHUNK = Chunk("a", None, 1, 0, 0, 0, 1, 0, 0, 0, Timings(), None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that answers see."""
    now = [100.0]
    monkeypatch.setattr(
        answer_stream, "time", SimpleNamespace(perf_counter=lambda: now[0])
    )
    return now


def test_times_of_an_answer(clock: list[float]):
    async def run() -> list[StreamEvent]:
        answer = AnswerStream(REQUEST, 5.0)
        assert answer.deadline == 105.0
        clock[0] += 2
        answer.begin()
        clock[0] += 1
        answer.put(CHUNK)
        clock[0] += 2  # the deadline itself is in time
        assert not answer.timed_out
        clock[0] += 0.5
        assert answer.timed_out
        answer.put(replace(CHUNK, text="b"))
        answer.end()
        return [event async for event in answer]

    first, second = asyncio.run(run())
    assert (first.text, first.queued, first.ttft) == ("a", 2.0, 3.0)
    assert (second.text, second.queued, second.ttft) == ("b", 2.0, 3.0)


def test_an_answer_that_was_never_queued(clock: list[float]):
    async def run() -> StreamEvent:
        answer = AnswerStream(REQUEST, 5.0)
        answer.put(CHUNK)
        answer.end()
        return [event async for event in answer][0]

    assert asyncio.run(run()).queued == 0


def test_an_error_ends_an_answer():
    async def run():
        answer = AnswerStream(REQUEST, 5.0)
        answer.put(CHUNK)
        answer.fail(OptionError("top_k: too low"))
        seen = []
        with pytest.raises(APIError, match="topK: too low"):
            async for event in answer:
                seen.append(event)
        assert len(seen) == 1

    asyncio.run(run())


def test_an_answer_without_a_loop_is_cancelled():
    async def made() -> AnswerStream:
        return AnswerStream(REQUEST, 5.0)

    answer = asyncio.run(made())
    assert not answer.cancel.is_set()
    answer.put(CHUNK)
    assert answer.cancel.is_set()


@pytest.mark.parametrize(
    ("reason", "told"),
    [("cancelled", "length"), ("stop", "stop"), ("length", "length"), (None, None)],
)
def test_why_an_answer_ended(reason: Any, told: str | None):
    event = StreamEvent(replace(CHUNK, finish_reason=reason), 1, 0)
    assert event.finish_reason == told


def test_times_are_told_in_microseconds():
    chunk = replace(CHUNK, cached_tokens=3, visual_tokens=4, generation_tps=1.23456)
    told = StreamEvent(chunk, 1.23456789, 0.12345678).timings()
    assert told == {
        "ttft": 1.234568,
        "queue": 0.123457,
        "cached_tokens": 3,
        "visual_tokens": 4,
        "generation_tps": 1.235,
    }
    stages = Timings(**dict.fromkeys(vars(Timings()), 0.12345678))
    told = StreamEvent(replace(chunk, timings=stages), 1, 0).timings()
    assert all(told[name] == 0.123457 for name in vars(stages))


def test_images_of_a_message_know_their_place():
    assert Message("user", "", (b"a", b"b"), ("x[0]", "x[1]")).field(1) == "x[1]"
    assert Message("user", "", (b"a", b"b")).field(1) == "messages"


def test_what_a_request_is_by_itself():
    made = GenerationRequest(())
    assert (made.system, made.response_format, made.model) == (None, None, "")
    assert made.detailed is False and made.names == {"schema": "schema"}


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("tiny", True),
        (" TINY:latest ", True),
        ("tiny:new", False),
        ("tin", False),
        ("tiny:latest:latest", False),
    ],
)
def test_names_of_the_model(name: str, same: bool):
    assert names_model(name, "Tiny:latest") is same


class Recorded(MockModel):
    """Notes what it was asked before the first request."""

    def ask(self, text: str, images: Any = (), **options: Any) -> Any:
        self.first = (text, [image.size for image in images], options)
        return super().ask(text, images, **options)


def test_an_engine_is_warm_and_shares_its_memory(monkeypatch: pytest.MonkeyPatch):
    compiled, daemons = [], []

    class Thread(threading.Thread):
        def start(self):
            daemons.append(self.daemon)
            super().start()

    monkeypatch.setattr(engine.threading, "Thread", Thread)
    monkeypatch.setattr(engine, "llguidance_tokenizer", compiled.append)
    model = Recorded()
    other = cast(Any, SimpleNamespace(config=model.config, parameters=model.parameters))
    made = Engine("a", model, Limits(), {"flags": other})
    text, sizes, options = model.first
    assert text and len(sizes) == 1 and options == {"max_tokens": 2}
    assert len(model.feature_cache) == model.feature_cache.nbytes == 0
    assert [each.limit for each in made._recent.values()] == [LIMIT // 2] * 2
    end = time.monotonic() + 5
    while not compiled and time.monotonic() < end:
        time.sleep(0.005)
    assert compiled == [model] and daemons == [True]
    facts = made.models()
    assert [(one.name, one.parent) for one in facts] == [("a", ""), ("a:flags", "a")]
