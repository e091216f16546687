"""How tokens are chosen, and which choices are refused."""

import math
from typing import Any, cast

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.sampling import (
    Sampling,
    apply_filters,
    apply_repetition_penalty,
    make_sampler,
)
from fastvlm_mlx.model.language import mlx_lm_module
from tests.support.mock_model import sample

LOGITS = np.log(np.array([[0.4, 0.25, 0.2, 0.1, 0.05]], np.float32))  # largest first
ORDER = [3, 0, 4, 2, 1]


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


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-30},
        {"temperature": 1e-310},
        {"temperature": 9e-4},
        {"top_p": 0},
        {"temperature": 1, "top_p": 5e-324},
        {"temperature": 1, "top_p": 1e-46},
        {"temperature": 1, "top_p": 1e-39},
    ],
)
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
        (
            {"temperature": 10**400},
            f"temperature 1{'0' * 39}... (401 characters): must be a number at least 0"
            " and of fewer than 309 digits; 0 is greedy, 0.7 is lively",
        ),
        (
            {"top_k": 10**5000},
            "top_k of thousands of digits: must be a whole number at least 0"
            " and of fewer than 309 digits; 0 is off",
        ),
        (
            {"top_p": 10**400},
            f"top_p 1{'0' * 39}... (401 characters): must be a number"
            " at least 0, at most 1; 1 is off",
        ),
        (
            {"top_p": float("nan")},
            "top_p nan: must be a number at least 0, at most 1; 1 is off",
        ),
        (
            {"seed": 2**32},
            "seed 4294967296: must be a whole number at least 0, at most"
            " 4294967295; any whole number there will do",
        ),
        ({"stop": [""]}, "stop ['']: give texts that are not empty"),
        ({"stop": 3}, "stop 3: give texts, such as ['END']"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(OptionError) as caught:
        Sampling(**options)
    assert str(caught.value) == message


def drawn(logits: Any, steps: int = 1, **options: Any) -> list[int]:
    choose = make_sampler(Sampling(**{"temperature": 1.0, "seed": 7, **options}))
    return [cast(int, choose(mx.array(logits)).item()) for _ in range(steps)]


def test_each_step_draws_with_its_own_key():
    flat = np.zeros((1, 1000), np.float32)
    said = drawn(flat, 20)
    assert len(set(said)) > 15
    assert drawn(flat, 20) == said
    assert drawn(flat, 20, seed=8) != said
    # A step's draw does not depend on how the steps before it went.
    keys = [mx.random.key(7 << 32 | step) for step in range(20)]
    expected = [mx.random.categorical(mx.array(flat), key=key).item() for key in keys]
    assert said == expected


def kept(**options: Any) -> list[int]:
    """Ranks of the tokens that the options leave, the likeliest being 0."""
    shuffled = LOGITS[:, ORDER]
    left = np.array(apply_filters(mx.array(shuffled), Sampling(**options)))[0]
    return sorted(ORDER[place] for place in np.flatnonzero(np.isfinite(left)))


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 5),
        # A token stays if those likelier than it have less than top_p together.
        ({"top_p": 0.39}, 1),
        ({"top_p": 0.41}, 2),
        ({"top_p": 0.64}, 2),
        ({"top_p": 0.66}, 3),
        ({"top_p": 0.9499}, 4),
        ({"top_p": 0.9501}, 5),
        ({"top_p": 1}, 5),
        ({"top_p": 1e-29}, 1),
        ({"top_k": 1}, 1),
        ({"top_k": 2}, 2),
        ({"top_k": 4}, 4),
        ({"top_k": 5}, 5),
        ({"top_k": 6}, 5),
        ({"top_k": 0}, 5),
        ({"min_p": 1}, 1),
        ({"min_p": 0.63}, 1),
        ({"min_p": 0.62}, 2),
        ({"min_p": 0.126}, 4),
        ({"min_p": 0.124}, 5),
        ({"min_p": 5e-324}, 5),
        ({"min_p": 0}, 5),
        # min_p looks at what top_p has left, top_k at what both have.
        ({"top_p": 0.66, "min_p": 0.124, "top_k": 4}, 3),
        ({"top_p": 0.9501, "min_p": 0.3, "top_k": 4}, 3),
        ({"top_p": 0.9501, "min_p": 0.124, "top_k": 2}, 2),
    ],
)
def test_what_the_filters_leave(options, count):
    assert kept(**options) == list(range(count))
    left = np.array(apply_filters(mx.array(LOGITS), Sampling(**options)))[0, :count]
    assert np.abs(left - LOGITS[0, :count]).max() < 1e-6


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    said = drawn(LOGITS, 4000, temperature=temperature)
    expected = np.exp(LOGITS[0].astype(np.float64) / temperature)
    expected /= expected.sum()
    assert np.abs(np.bincount(said, minlength=5) / 4000 - expected).max() < 0.03


@pytest.mark.parametrize(
    "options",
    [{"temperature": 1e300}, {"temperature": 1e39}, {"temperature": 1e6, "top_p": 0.7}],
)
def test_a_huge_temperature_draws_only_what_is_allowed(options):
    said = drawn(LOGITS[:, ORDER], 200, **{"top_k": 3, **options})
    assert {ORDER[token] for token in said} == {0, 1, 2}


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("penalty", [1e-300, 1e-9, 0.5, 1.3, 1e9, 1e300])
def test_a_penalty_leaves_numbers(penalty, dtype):
    logits = mx.array([[0.0, -2.0, 3.0, 1.0]], dtype)
    changed = np.array(apply_repetition_penalty(logits, mx.array([0, 1, 2]), penalty))
    assert np.isfinite(changed).all()
    factor = min(max(penalty, 1e-30), 1e30)
    expected = [[0, -2 * factor, 3 / factor, 1]]
    assert np.allclose(changed, expected, rtol=1e-5)


def test_the_penalty_looks_at_the_last_64_tokens():
    """A NumPy loop says what a penalized greedy answer is."""
    rng = np.random.default_rng(3)
    logits, penalty = rng.uniform(1, 2, size=(1, 80)).astype(np.float32), 100.0
    expected: list[int] = []
    for _ in range(200):
        changed = logits[0].copy()
        for id in set(expected[-64:]):
            changed[id] *= penalty if changed[id] < 0 else 1 / penalty
        expected.append(int(changed.argmax()))
    said = drawn(logits, 200, temperature=0, repetition_penalty=penalty)
    assert said == expected
    ranks = np.argsort(-logits[0]).tolist()
    assert said[:66] == [*ranks[:65], ranks[0]]


def test_top_p_that_is_reached_exactly_takes_no_more():
    logits = mx.array([[0.0, -math.log(2), -math.log(2)]])  # a half, two quarters
    left = apply_filters(logits, Sampling(top_p=0.5))
    assert mx.exp(left).tolist() == [[0.5, 0, 0]]
