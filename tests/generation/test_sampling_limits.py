"""Sampling at its limits: values taken and refused, filters, the penalty's window."""

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation.sampling import (
    REPETITION_CONTEXT_SIZE,
    Sampling,
    apply_filters,
    apply_repetition_penalty,
    make_sampler,
)

# Likelihoods 0.4, 0.3, 0.2, 0.1, in another order than their ids.
LIKELIHOODS = [0.2, 0.4, 0.1, 0.3]
LOGITS = mx.log(mx.array([LIKELIHOODS]))


def kept(**options: Any) -> list[int]:
    logits = apply_filters(LOGITS, Sampling(temperature=1.0, **options))
    return [i for i, value in enumerate(logits[0].tolist()) if value > -math.inf]  # type: ignore


def test_the_filters_off():
    assert kept() == [0, 1, 2, 3]
    logits = apply_filters(LOGITS + 5, Sampling(temperature=1.0))
    assert np.allclose(np.exp(np.array(logits)), [LIKELIHOODS], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 2}, [1, 3]),
        ({"top_k": 3}, [0, 1, 3]),
        ({"top_k": 4}, [0, 1, 2, 3]),
        ({"top_k": 5}, [0, 1, 2, 3]),
        ({"top_p": 0.05}, [1]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.69}, [1, 3]),
        ({"top_p": 0.71}, [0, 1, 3]),
        ({"top_p": 0.89}, [0, 1, 3]),
        ({"top_p": 0.95}, [0, 1, 2, 3]),
        ({"min_p": 0.24}, [0, 1, 2, 3]),
        ({"min_p": 0.26}, [0, 1, 3]),
        ({"min_p": 0.51}, [1, 3]),
        ({"min_p": 0.76}, [1]),
        ({"min_p": 1.0}, [1]),
        ({"top_p": 0.71, "top_k": 2}, [1, 3]),
        ({"min_p": 0.26, "top_k": 4}, [0, 1, 3]),
    ],
)
def test_what_a_filter_leaves(options: dict[str, Any], ids: list[int]):
    assert kept(**options) == ids


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("temperature", [0, 0.7, 1e9], [-1e-9, math.inf, math.nan, True, "1", None]),
        ("top_p", [0, 0.5, 1], [-0.1, 1.1, math.nan, True]),
        ("top_k", [0, 1, 10**6], [-1, 1.5, True, None]),
        ("min_p", [0, 0.5, 1], [-0.1, 1.1, True]),
        ("max_tokens", [1, 10**6], [0, -1, 1.0, True]),
        ("repetition_penalty", [None, 1e-9, 1, 2], [0, 0.0, -1, math.inf, True]),
        ("seed", [None, 0, 2**32 - 1], [-1, 2**32, 1.0, True]),
        ("ignore_eos", [True, False], [0, 1, None]),
        ("stop", [(), ("a",)], [("",), ("a", ""), (1,), 7]),
    ],
)
def test_values(name: str, taken: list[Any], refused: list[Any]):
    for value in taken:
        assert getattr(Sampling(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(OptionError, match=f"^{name} "):
            Sampling(**{name: value})


def test_the_bounds_are_said():
    cases: list[tuple[dict[str, Any], str]] = [
        ({"top_p": 2}, "top_p 2: must be a number at least 0, at most 1; 1 is off"),
        ({"max_tokens": 0}, "max_tokens 0: must be a whole number at least 1; 512"),
        (
            {"repetition_penalty": 0},
            "repetition_penalty 0: must be a number above 0; 1 is off",
        ),
        (
            {"seed": -1},
            "seed -1: must be a whole number at least 0, at most 4294967295",
        ),
    ]
    for options, said in cases:
        with pytest.raises(OptionError) as caught:
            Sampling(**options)
        assert str(caught.value).startswith(said)


def test_a_text_alone_is_one_stop_sequence():
    assert Sampling(stop="END").stop == ("END",)
    assert Sampling(stop=["a", "b"]).stop == ("a", "b")


@pytest.mark.parametrize(
    ("options", "greedy"),
    [
        ({}, True),
        ({"temperature": 0.00099}, True),
        ({"temperature": 0.001}, False),
        ({"temperature": 1.0}, False),
        ({"temperature": 1.0, "top_p": 0}, True),
        ({"temperature": 1.0, "top_p": 1e-9}, False),
    ],
)
def test_greedy(options: dict[str, Any], greedy: bool):
    assert Sampling(**options).is_greedy is greedy


def test_defaults():
    plain = Sampling()
    assert (plain.temperature, plain.top_p, plain.top_k, plain.min_p) == (0, 1, 0, 0)
    assert (plain.repetition_penalty, plain.seed) == (None, None)
    assert (plain.max_tokens, plain.stop, plain.ignore_eos) == (512, (), False)


def test_the_penalty_divides_what_is_above_zero_and_multiplies_what_is_below():
    logits = mx.array([[2.0, -2.0, 0.0, 3.0]])
    given = apply_repetition_penalty(logits, mx.array([0, 1, 2]), 2.0)
    assert given.tolist() == [[1.0, -4.0, 0.0, 3.0]]


def alternate(sampling: Sampling, steps: int) -> list[int]:
    """Greedy ids where id n, for n steps, is a little less likely than id n - 1."""
    logits = -0.001 * mx.arange(float(steps))[None] + 10
    choose = make_sampler(sampling)
    return [int(choose(logits).item()) for _ in range(steps)]  # type: ignore


def test_the_penalty_looks_at_the_last_64_tokens():
    assert REPETITION_CONTEXT_SIZE == 64
    ids = alternate(Sampling(repetition_penalty=2.0), 80)
    # The 65th step no longer sees the first.
    assert ids[:64] == list(range(64))
    assert ids[64] == 64
    assert ids[65] == 0 and ids[66] == 1
    assert alternate(Sampling(repetition_penalty=1), 5) == [0] * 5
    assert alternate(Sampling(repetition_penalty=1.1), 5) == [0, 1, 2, 3, 4]


def draws(steps: int = 300, **options: Any) -> list[int]:
    choose = make_sampler(Sampling(temperature=1.0, **options))
    return [int(choose(LOGITS).item()) for _ in range(steps)]  # type: ignore


def test_every_step_draws_anew_and_in_proportion():
    """One key for all steps would give one id; keys that overlap, shifted copies."""
    ids = draws(seed=1)
    for token, likelihood in enumerate(LIKELIHOODS):
        assert abs(ids.count(token) / 300 - likelihood) < 0.1
    assert ids == draws(seed=1)
    other = draws(seed=2)
    assert ids != other
    assert ids[1:] != other[:-1] and ids[:-1] != other[1:]


def test_seeds_at_their_limits_draw_apart():
    assert len({tuple(draws(20, seed=seed)) for seed in (0, 1, 2**32 - 1)}) == 3
    assert len({tuple(draws(20)) for _ in range(3)}) == 3  # None draws a seed


def test_the_temperature_flattens_and_sharpens():
    hot = make_sampler(Sampling(temperature=100.0, seed=3))
    cold = make_sampler(Sampling(temperature=0.02, seed=3))
    given = [int(hot(LOGITS).item()) for _ in range(200)]  # type: ignore
    assert min(given.count(token) for token in range(4)) > 25
    assert {int(cold(LOGITS).item()) for _ in range(50)} == {1}  # type: ignore


def test_a_constraint_is_told_how_many_tokens_are_left():
    told = []

    class Counts:
        def choose(self, logits, draw, left):
            told.append(left)
            return draw(logits)

        def allowed(self, logits):
            return logits

    choose = make_sampler(Sampling(max_tokens=3), Counts())
    for _ in range(3):
        choose(LOGITS)
    assert told == [3, 2, 1]
