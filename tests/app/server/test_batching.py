"""Requests that are answered together: each as it is answered alone."""

import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")

from fastvlm_mlx import load  # noqa: E402
from fastvlm_mlx.adapters.apply import with_adapter  # noqa: E402
from fastvlm_mlx.adapters.files import write_adapter  # noqa: E402
from fastvlm_mlx.adapters.spec import AdapterSpec  # noqa: E402
from fastvlm_mlx.app.server.engine.engine import Engine  # noqa: E402
from fastvlm_mlx.app.server.engine.request import (  # noqa: E402
    GenerationRequest,
    Message,
    ResponseFormat,
)
from fastvlm_mlx.app.server.http.limits import Limits  # noqa: E402
from fastvlm_mlx.app.session import read_adapters  # noqa: E402
from fastvlm_mlx.errors import OptionError  # noqa: E402
from fastvlm_mlx.generation.stream import Chunk  # noqa: E402
from tests.support.small_adapters import make_adapter  # noqa: E402

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@pytest.fixture(scope="module")
def new_engine(reference: Path, tmp_path_factory: pytest.TempPathFactory):
    model = load(reference / "llava-mini")
    folder = tmp_path_factory.mktemp("adapters") / "flags"
    write_adapter(folder, make_adapter(model, AdapterSpec(rank=3), 0.5))
    found = read_adapters([folder])

    def make() -> Engine:
        model.feature_cache.clear()
        tuned = {name: with_adapter(model, each) for name, each in found.items()}
        return Engine("tiny", model, Limits(), tuned)

    return make


@pytest.fixture(scope="module")
def requests(images: Path) -> list[GenerationRequest]:
    coffee = (images / "coffee.png").read_bytes()
    rocket = (images / "rocket.jpg").read_bytes()

    def request(text: str, *shown: bytes, model: str = "", **fields: Any):
        form = fields.pop("response_format", None)
        chat = (Message("user", text, shown),)
        return GenerationRequest(
            chat, sampling=fields, response_format=form, model=model
        )

    return [
        request("What is it?", coffee, max_tokens=9),
        request("Another one, please: " * 9, rocket, coffee, max_tokens=7),
        request("Draw", max_tokens=12, temperature=0.9, seed=3, top_p=0.9),
        request("Draw", max_tokens=12, temperature=0.9, seed=4, top_k=30),
        request(
            "How many?", rocket, max_tokens=40, response_format=ResponseFormat(SCHEMA)
        ),
        request("What is it?", coffee, max_tokens=9, model="tiny:flags"),
        request("Again", max_tokens=14, repetition_penalty=1.4, model="tiny:flags"),
        request("Say it", max_tokens=20, stop=("e",)),
        request("How sure?", rocket, max_tokens=5, top_logprobs=2),
    ]


Chunks = Generator[Chunk | None, None, None]


def to_end(chunks: Chunks) -> list[Chunk]:
    return [chunk for chunk in chunks if chunk is not None]


def in_turn(streams: list[Chunks]) -> Iterator[tuple[int, Chunk | None]]:
    """A step of each stream in turn, another stream joining after each round."""
    going: list[int] = []
    for rounds in range(10**6):
        if rounds < len(streams):
            going.append(rounds)
        if not going:
            return
        for at in list(going):
            try:
                yield at, next(streams[at])
            except StopIteration:
                going.remove(at)


def essence(chunks: list[Chunk]) -> Any:
    """What must be equal: logprobs are rounded."""
    return [
        (
            *(c.text, c.token, c.finish_reason, c.generation_tokens, c.prompt_tokens),
            None
            if c.logprobs is None
            else [(each.token, round(each.logprob, 3)) for each in c.logprobs],
        )
        for c in chunks
    ]


def test_together_as_alone(new_engine, requests):
    alone = [
        essence(to_end(new_engine().stream(each, threading.Event())))
        for each in requests
    ]
    engine = new_engine()
    streams = [engine.stream(each, threading.Event()) for each in requests]
    found: list[list[Chunk]] = [[] for _ in requests]
    pauses = 0
    for at, chunk in in_turn(streams):
        if chunk is None:
            assert not found[at]  # it never pauses once it has begun
            pauses += 1
        else:
            found[at].append(chunk)
    assert [essence(each) for each in found] == alone
    assert pauses > 2 * len(requests)
    assert len({len(each) for each in found}) > 4


def test_a_follow_up_prefills_only_what_is_new(new_engine, requests):
    engine = new_engine()
    streams = [engine.stream(each, threading.Event()) for each in requests[:2]]
    found: list[list[Chunk]] = [[], []]
    for at, chunk in in_turn(streams):
        found[at] += [] if chunk is None else [chunk]
    follow_ups = [
        GenerationRequest(
            (
                *asked.messages,
                Message("assistant", "".join(chunk.text for chunk in chunks)),
                Message("user", "And?"),
            ),
            sampling={"max_tokens": 5},
        )
        for asked, chunks in zip(requests[:2], found, strict=True)
    ]
    streams = [engine.stream(each, threading.Event()) for each in follow_ups]
    firsts: dict[int, Chunk] = {}
    for at, chunk in in_turn(streams):
        if chunk is not None:
            firsts.setdefault(at, chunk)
    for at, chunks in enumerate(found):
        first, last = firsts[at], chunks[-1]
        kept = last.prompt_tokens + last.generation_tokens - 1
        assert first.cached_tokens >= kept > 10
        assert first.prompt_tokens - first.cached_tokens < 40


def test_a_cancelled_and_a_closed_answer_leave_the_others_alone(new_engine, requests):
    wanted = essence(to_end(new_engine().stream(requests[0], threading.Event())))
    engine, cancel = new_engine(), threading.Event()
    chosen = [requests[0], requests[3], requests[2], requests[1]]
    streams = [engine.stream(each, cancel) for each in chosen[1:]]
    streams.insert(0, engine.stream(chosen[0], threading.Event()))
    streams[3].close()  # never begun
    found: list[list[Chunk]] = [[] for _ in chosen]
    for at, chunk in in_turn(streams):
        if chunk is not None:
            found[at].append(chunk)
        if len(found[2]) == 2:
            streams[2].close()
        if len(found[1]) == 4:
            cancel.set()
    assert essence(found[0]) == wanted
    assert found[1][-1].finish_reason == "cancelled" and len(found[1]) == 5
    assert len(found[2]) == 2 and not found[3]
    assert not len(engine._decoders["tiny"])


def test_an_answer_that_fails_leaves_the_others_alone(new_engine, requests):
    wanted = essence(to_end(new_engine().stream(requests[0], threading.Event())))
    engine = new_engine()
    hopeless = GenerationRequest(
        (Message("user", "Hi"),),
        sampling={"max_tokens": 1},
        response_format=ResponseFormat(SCHEMA),
    )
    good = engine.stream(requests[0], threading.Event())
    found = [next(good)]
    while found[-1] is None:
        found.append(next(good))
    bad = engine.stream(hopeless, threading.Event())
    with pytest.raises(OptionError, match="too few for JSON of this schema"):
        to_end(bad)
    found += to_end(good)
    assert essence([chunk for chunk in found if chunk is not None]) == wanted
