"""AdamW as a function: clipping, accumulation, rates, weights in 16 bits, dropout."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from fastvlm_mlx import load
from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.model import language
from fastvlm_mlx.train.dropout import KeyedDropout
from fastvlm_mlx.train.learner import LANGUAGE, PROJECTOR, Arrays
from tests.support.learners import KEY, learner, some_batch
from tests.support.mock_model import MockModel

A, B = "language_model.a", "projector.b"


def adamw(value, gradients, rate, decay):
    """The textbook's, in float64, for several steps."""
    m = v = 0.0
    for step, gradient in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        unbiased = m / (1 - 0.9**step), v / (1 - 0.999**step)
        value = value - rate * decay * value
        value = value - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return value


def arrays(a: float, b: float) -> Arrays:
    return {A: mx.array([a]), B: mx.array([b])}


def test_updates_are_the_textbooks_with_two_rates():
    options = {"lr": 0.1, "projector_lr": 0.01, "weight_decay": 0.2, "clip": 0.0}
    given = [(0.5, -2.0), (0.1, 30.0), (-0.7, 4.0)]
    with learner(MockModel(), **options) as made:
        at = arrays(1.0, 3.0)
        moments = {n: {"m": mx.zeros(1), "v": mx.zeros(1)} for n in at}
        for step, pair in enumerate(given):
            before = moments
            at, moments, norm = made.update(at, moments, arrays(*pair), step, 0.5)
            assert norm == pytest.approx(np.hypot(*pair), rel=1e-6)
            assert before is not moments and float(before[A]["m"]) != float(
                moments[A]["m"]
            )
    assert float(at[A]) == pytest.approx(
        adamw(1.0, [p[0] for p in given], 0.05, 0.2), rel=1e-5
    )
    assert float(at[B]) == pytest.approx(
        adamw(3.0, [p[1] for p in given], 0.005, 0.2), rel=1e-5
    )


def test_gradients_are_clipped_together():
    with learner(clip=1.0) as made:
        at = arrays(0.0, 0.0)
        moments = {n: {"m": mx.zeros(1), "v": mx.zeros(1)} for n in at}
        _, moments, norm = made.update(at, moments, arrays(3.0, 4.0), 0, 1.0)
    assert norm == pytest.approx(5.0)
    # The first moment is a tenth of the clipped gradient: 3 and 4 over 5.
    assert float(moments[A]["m"]) == pytest.approx(0.06, rel=1e-4)
    assert float(moments[B]["m"]) == pytest.approx(0.08, rel=1e-4)


def test_accumulated_passes_are_the_larger_batch():
    with learner(method="full", projector=True) as made:
        whole = made.gradients(made.start, some_batch(4), KEY)
        parts = [made.gradients(made.start, some_batch(2, at), KEY) for at in (0, 2)]
    assert sum(loss for loss, _ in parts) == pytest.approx(whole[0], rel=1e-6)
    for name, array in whole[1].items():
        both = parts[0][1][name] + parts[1][1][name]
        assert np.allclose(both, array, rtol=1e-4, atol=1e-5), name


def test_weights_in_16_bits_learn_in_32(tiny):
    """An update far below bfloat16's precision is not lost, and the model computes
    with what it rounds to."""
    model = load(tiny, dtype="bfloat16")
    with learner(model, method="full") as made:
        assert {array.dtype for array in made.start.values()} == {mx.float32}
        name = "language_model.model.layers.0.mlp.up_proj.weight"
        ones = {n: mx.ones_like(array) for n, array in made.start.items()}
        at, moments = made.start, made.no_moments()
        for step in range(20):
            at, moments, _ = made.update(at, moments, ones, step, 0.01)
        moved = made.start[name] - at[name]
        # 20 steps of a hundredth of the rate, 2e-4; half a unit of bfloat16 is more.
        assert mx.allclose(moved, mx.full(moved.shape, 20 * 2e-6), rtol=0.05)
        made.install(at)
        weight = model.language_model.model.layers[0].mlp.up_proj.weight
        assert weight.dtype == mx.bfloat16
        assert mx.array_equal(weight, at[name].astype(mx.bfloat16))


def test_dropout_follows_from_its_key():
    with learner(MockModel(), dropout=0.5) as made:
        layers = made.model.language_model.modules()
        dropouts = [layer for layer in layers if isinstance(layer, KeyedDropout)]
        assert len(dropouts) == 2 * 7
        at = {n: mx.ones_like(a) * 0.1 for n, a in made.start.items()}
        first, _ = made.gradients(at, some_batch(), KEY)
        mx.random.normal((3,))  # the process's state plays no part
        again, _ = made.gradients(at, some_batch(), KEY)
        other, _ = made.gradients(at, some_batch(), mx.array([1, 3], mx.uint32))
        without = made.loss(at, some_batch())
        assert first == again != other
        assert without == made.loss(at, some_batch()) not in (first, other)
        # Each layer drops others, and as much as it was told.
        ones = mx.ones((1000,))
        keys = dropouts[0]._keys
        with keys.given(KEY, len(dropouts)):
            seen = [dropouts[0](ones), dropouts[1](ones)]
        assert not mx.array_equal(seen[0], seen[1])
        assert {*np.unique(np.asarray(seen[0]))} == {0.0, 2.0}
        assert 400 < int((seen[0] == 0).sum()) < 600
    modules = made.model.language_model.modules()
    assert not any(isinstance(each, KeyedDropout) for each in modules)


@pytest.mark.parametrize(
    ("options", "prefixes", "count"),
    [
        ({"rank": 2}, (LANGUAGE,), 2 * 7 * 2),
        ({"rank": 2, "num_layers": 1}, (LANGUAGE + "model.layers.1.",), 7 * 2),
        ({"rank": 2, "method": "dora"}, (LANGUAGE,), 2 * 7 * 3),
        ({"rank": 2, "projector": True}, (LANGUAGE, PROJECTOR), 2 * 7 * 2 + 2),
        ({"method": "projector"}, (PROJECTOR,), 2),
    ],
)
def test_what_learns(options: dict, prefixes: tuple[str, ...], count: int):
    with learner(**options) as made:
        assert all(name.startswith(prefixes) for name in made.start)
        assert len(made.start) == count
        rate = 2e-5 if options.get("method") == "projector" else 2e-4
        assert made.highest_rate == rate


def test_a_quantized_base_learns_beside_its_weights():
    """As on a GPU: the packed weights stay, and the factors get gradients."""
    model = MockModel()
    nn.quantize(model.language_model, group_size=32, bits=4)
    before = language.hidden(model.language_model, mx.ones((1, 3, 32)))
    with learner(model, rank=4) as made:
        at = {n: array + 0.05 for n, array in made.start.items()}
        _, gradients = made.gradients(at, some_batch(), KEY)
        for name, array in gradients.items():
            assert mx.abs(array).max() > 0, name
    after = language.hidden(model.language_model, mx.ones((1, 3, 32)))
    assert mx.array_equal(before, after)


def test_a_gpu_can_compile_it():
    """Nothing is read while the step is described. Computing it compiled would take g++
    minutes on a CPU."""
    made_of = learner(dropout=0.1, checkpoint=True, projector=True)
    with kernels.switched_off(), made_of as made:
        compiled = mx.compile(made._loss_and_gradients)
        loss, gradients = compiled(made.start, KEY, tuple(some_batch()))
        assert loss.shape == () and gradients.keys() == made.start.keys()
        held_out = mx.compile(made._held_out_loss)(made.start, tuple(some_batch()))
        assert held_out.shape == ()
        arguments = (made.start, made.no_moments(), made.start, mx.array(3))
        after, moments, _ = mx.compile(made._update)(*arguments, mx.array(0.5))
        assert after.keys() == moments.keys() == made.start.keys()
