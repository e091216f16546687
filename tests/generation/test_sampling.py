"""How tokens are chosen, and which choices are refused."""

from typing import Any

import mlx.core as mx
import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.sampling import (
    Sampling,
    apply_filters,
    apply_repetition_penalty,
)
from fastvlm_mlx.model.language import mlx_lm_module
from tests.support.mock_model import sample


def test_seed_makes_sampling_repeatable(model):
    before = mx.random.state[0].tolist()  # type: ignore
    first = sample(model, seed=7, top_p=0.9)
    assert sample(model, seed=7, top_p=0.9) == first
    assert sample(model, seed=8, top_p=0.9) != first
    assert sample(model) != sample(model)
    assert mx.random.state[0].tolist() == before  # type: ignore


def test_strict_filters_leave_only_the_best(model):
    best = sample(model, temperature=0)
    assert sample(model, seed=1, top_k=1) == best
    assert sample(model, seed=1, top_p=1e-6) == best
    assert sample(model, seed=1, min_p=1) == best
    # The smallest lead of a token here is 0.01, six times the temperature.
    assert sample(model, seed=1, temperature=2e-3) == best
    assert len(sample(model, seed=1, top_k=10**6)) == 12


@pytest.mark.parametrize("options", [{"temperature": 1e-30}, {"top_p": 0}])
def test_the_least_values_are_greedy(model, options):
    assert Sampling(**options).is_greedy
    assert sample(model, **options) == sample(model, temperature=0)


def test_filters_agree_with_mlx_lm():
    theirs = mlx_lm_module("sample_utils")
    logits = mx.random.normal((1, 200), key=mx.random.key(3)) * 2
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    cases: list[tuple[dict[str, Any], mx.array]] = [
        ({"top_p": 0.7}, theirs.apply_top_p(logprobs, 0.7)),
        ({"top_k": 5}, theirs.apply_top_k(logprobs, 5)),
        ({"min_p": 0.1}, mx.where(logprobs < logprobs.max() - 2.302585, -mx.inf, 1)),
    ]
    for options, expected in cases:
        ours = apply_filters(logits, Sampling(temperature=1, **options))
        assert mx.array_equal(ours == -mx.inf, expected == -mx.inf), options
    recent = mx.array([3, 9, 9])
    penalize = theirs.make_repetition_penalty(1.3)
    assert mx.array_equal(
        apply_repetition_penalty(logits, recent, 1.3), penalize(recent, logits + 0)
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"temperature": -1},
            "temperature -1: must be a number at least 0; 0 is greedy, 0.7 is lively",
        ),
        (
            {"temperature": float("nan")},
            "temperature nan: must be a number at least 0; 0 is greedy, 0.7 is lively",
        ),
        ({"top_p": -1}, "top_p -1: must be a number at least 0, at most 1; 1 is off"),
        ({"top_p": 2}, "top_p 2: must be a number at least 0, at most 1; 1 is off"),
        ({"ignore_eos": 1}, "ignore_eos 1: must be True or False"),
        ({"top_k": 1.5}, "top_k 1.5: must be a whole number at least 0; 0 is off"),
        (
            {"min_p": "a"},
            "min_p 'a': must be a number at least 0, at most 1; 0 is off",
        ),
        (
            {"repetition_penalty": 0},
            "repetition_penalty 0: must be a number above 0; 1 is off",
        ),
        (
            {"max_tokens": 0},
            "max_tokens 0: must be a whole number at least 1; 512 is usual",
        ),
        (
            {"max_tokens": True},
            "max_tokens True: must be a whole number at least 1; 512 is usual",
        ),
        (
            {"seed": -1},
            "seed -1: must be a whole number at least 0, at most 4294967295; "
            "any whole number there will do",
        ),
        ({"stop": [""]}, "stop ['']: give texts that are not empty"),
        ({"stop": 3}, "stop 3: give texts, such as ['END']"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(OptionError) as caught:
        Sampling(**options)
    assert str(caught.value) == message
