"""What the engine says of its model, what it frees, and what it is asked to measure."""

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import pytest

pytest.importorskip("starlette")

from fastvlm_mlx.app.server.api import (  # noqa: E402
    ollama,
    ollama_schema,
    openai,
    openai_schema,
)
from fastvlm_mlx.app.server.engine import engine, worker  # noqa: E402
from fastvlm_mlx.app.server.engine.engine import Engine  # noqa: E402
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402


def made(parameters: dict[str, mx.array], **config: Any) -> Engine:
    of = SimpleNamespace(quantization=None, context_size=77, text=None, vision=None)
    vars(of).update(config)
    model = SimpleNamespace(config=of, parameters=lambda: parameters)
    bare = Engine.__new__(Engine)
    vars(bare).update(_name="a name", _model=model, _models={"a name": model})
    return bare


def test_parameters_that_are_packed_count_as_many():
    arrays = {
        "packed": mx.zeros((4, 8), mx.uint32),
        "scales": mx.zeros((4, 2), mx.float16),
        "norm": mx.zeros((5,), mx.float32),
    }
    four = made(arrays, quantization={"bits": 4, "group_size": 32}).models()[0]
    assert four.parameters == 4 * 8 * 8 + 8 + 5 and four.quantization == 4
    assert four.bytes == 4 * 8 * 4 + 8 * 2 + 5 * 4
    eight = made(arrays, quantization={"bits": 8, "group_size": 32}).models()[0]
    assert eight.parameters == 4 * 8 * 4 + 8 + 5
    plain = made(arrays).models()[0]
    assert (plain.parameters, plain.quantization) == (32 + 8 + 5, None)
    assert plain.bytes == four.bytes


def test_facts_of_the_config():
    info = made({}).models()[0]
    assert (info.name, info.context_length, info.family) == ("a name", 77, "qwen2")
    assert not info.vision and info.parameters == info.bytes == 0
    text = SimpleNamespace(model_type="llama")
    info = made({}, text=text, vision=object()).models()[0]
    assert info.family == "llama" and info.vision


def test_memory_is_given_back(monkeypatch):
    calls = []
    monkeypatch.setattr(engine.mx, "clear_cache", lambda: calls.append(1))
    made({}).release_memory()
    assert calls == [1]


@pytest.mark.parametrize("gpu", [False, True])
def test_a_worker_without_requests_frees_memory_once(monkeypatch, gpu):
    """The waits of a queue that nobody fills, one after the other."""
    idle = worker.Worker(lambda: cast(Any, None), Limits())
    monkeypatch.setattr(worker.device, "on_gpu", lambda: gpu)
    waits: list[float | None] = []
    frees: list[int] = []

    def wait(timeout: float | None) -> bool:
        waits.append(timeout)
        if len(waits) == 4:
            idle._closed = True
        return len(waits) in (1, 3)  # woken for nothing, time is up, woken, closed

    monkeypatch.setattr(idle._change, "wait", wait)
    freeing = SimpleNamespace(release_memory=lambda: frees.append(len(waits)))
    assert not idle._wait(cast(Any, freeing))
    seconds = 120.0 if gpu else 5.0
    assert waits == [seconds, seconds, None, None] and frees == [2]


def test_requests_come_in_their_order():
    queue = worker.Worker(lambda: cast(Any, None), Limits(), 2)
    begun: list[str] = []
    waiting = [
        cast(Any, SimpleNamespace(begin=partial(begun.append, name), request=name))
        for name in ("a", "b", "c")
    ]
    for each in waiting:
        each.cancel = None
    queue._queue.extend(waiting)
    engine = cast(Any, SimpleNamespace(stream=lambda request, cancel: iter([request])))
    assert queue.waiting == 3
    (first,), (second,) = queue._take_up(engine), queue._take_up(engine)
    assert [next(each.chunks) for each in (first, second)] == ["a", "b"] == begun
    assert queue._take_up(engine) == [] and queue.waiting == 3  # no room
    queue._active.remove(first.stream)
    assert queue._take_up(engine)[0].stream is waiting[2] and queue.waiting == 2
    queue._active.clear()
    queue._queue.extend(waiting)
    queue._closed = True
    assert queue._take_up(engine) == [] and not queue._wait(engine)


def test_stages_are_measured_only_on_request():
    """It slows an answer down: every stage has to end before the next one starts."""
    asked = ollama_schema.GenerateRequest.model_validate({"model": "x", "prompt": "Hi"})
    request = asyncio.run(ollama.generation_request(asked, Limits()))
    assert request is not None and request.detailed is False
    body = {"model": "x", "messages": [{"role": "user", "content": "Hi"}]}
    for more, wanted in (({}, False), ({"detailed_timings": True}, True)):
        given = openai_schema.ChatRequest.model_validate({**body, **more})
        made = asyncio.run(openai.generation_request(given, Limits()))
        assert made.detailed is wanted
