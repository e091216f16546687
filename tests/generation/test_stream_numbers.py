"""The numbers of a chunk to the second, by a clock that a test sets."""

import itertools
from types import SimpleNamespace
from typing import Any, cast

import mlx.core as mx
import pytest

from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.generation import stream
from fastvlm_mlx.generation.sampling import Sampling
from fastvlm_mlx.generation.stream import Chunk, Timings, stream_generate
from tests.support.mock_model import ScriptedModel


@pytest.fixture
def seconds(monkeypatch) -> None:
    """A clock that is one second further at every look: 1, 2, 3..."""
    ticks = itertools.count(1.0)
    monkeypatch.setattr(
        stream, "time", SimpleNamespace(perf_counter=lambda: next(ticks))
    )


def chunks(cached: int = 0, **options: Any) -> list[Chunk]:
    model = ScriptedModel([5, 6, 7, 8])
    for layer in model.cache if cached else ():
        layer.update_and_fetch(mx.ones((1, 1, cached, 4)), mx.ones((1, 1, cached, 4)))
    prompt = mx.zeros((1, 6, 4))
    sampling = Sampling(max_tokens=3)
    return [
        *stream_generate(cast(FastVLM, model), prompt, model.cache, sampling, **options)
    ]


def test_rates_and_seconds(seconds):
    first, second, third = chunks()
    # Looks: the call 1, the prefill 2, the first token 3, its chunk 4, the others 5, 6.
    assert first.ttft == second.ttft == third.ttft == 2
    assert first.prompt_tps == third.prompt_tps == 6
    assert (first.generation_tps, second.generation_tps) == (0, 0.5)
    assert third.generation_tps == 2 / 3
    assert [each.generation_tokens for each in (first, second, third)] == [1, 2, 3]
    assert first.timings == Timings()


def test_what_is_cached_costs_nothing(seconds):
    first, *_ = chunks(4)
    assert (first.cached_tokens, first.prompt_tokens, first.prompt_tps) == (4, 10, 6)
    assert first.visual_tokens == 0


def test_the_call_may_have_begun_earlier(seconds):
    first, *_ = chunks(started=-9.0, visual_tokens=5)
    # Looks: the prefill 1, the first token 2.
    assert (first.ttft, first.prompt_tps, first.visual_tokens) == (11, 6, 5)


def test_stages_in_detail(seconds):
    given = Timings(decode=0.5, preprocess=0.25, encode=7.0)
    first, *_, last = chunks(detailed=True, timings=given)
    # Looks: the call 1, the prefill 2 and its end 3, the first token 4.
    assert first.timings == Timings(0.5, 0.25, 7.0, prefill=1, first_token=1)
    assert last.timings == first.timings
    assert (first.ttft, first.prompt_tps) == (3, 3)
