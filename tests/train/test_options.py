"""Options, the paper's stages, and the learning rate of each step."""

import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.train.options import TrainOptions
from fastvlm_mlx.train.schedule import Schedule


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "qlora"}, "method 'qlora': unknown; use lora, dora, full, proj"),
        ({"rank": 0}, "rank 0: give 1 or more"),
        ({"epochs": 0}, "epochs 0: give 1 or more"),
        ({"batch": -1}, "batch -1: give 1 or more"),
        ({"accumulate": 0}, "accumulate 0: give 1 or more"),
        ({"save_every": 0}, "save_every 0: give 1 or more"),
        ({"lr": 0.0}, "lr 0.0: give more than 0"),
        ({"lr": float("nan")}, "lr nan: give more than 0"),
        ({"projector_lr": float("inf")}, "projector_lr inf: give more than 0"),
        ({"scale": -2.0}, "scale -2.0: give more than 0"),
        ({"clip": -1.0}, "clip -1.0: give 0 or more"),
        ({"weight_decay": -0.1}, "weight_decay -0.1: give 0 or more"),
        ({"patience": -1}, "patience -1: give 0 or more"),
        ({"seed": -1}, "seed -1: give 0 or more"),
        ({"dropout": 1.0}, "dropout 1.0: give at least 0 and below 1"),
        ({"warmup": -0.1}, "warmup -0.1: give at least 0 and below 1"),
        ({"num_layers": 0}, "num_layers 0: give 1 or more, or -1 for all"),
    ],
)
def test_values_out_of_range(options: dict, message: str):
    with pytest.raises(OptionError) as error:
        TrainOptions(**options)
    assert str(error.value).startswith(message)


def test_the_papers_stages():
    first, second = TrainOptions.stage(1), TrainOptions.stage(2, batch=8)
    assert (first.method, first.projector, first.projector_lr) == (
        "projector",
        True,
        1e-3,
    )
    assert (second.method, second.projector, second.batch) == ("full", True, 8)
    assert (second.lr, second.projector_lr) == (2e-5, 2e-5)
    with pytest.raises(OptionError, match="^stage 3: unknown; use 1 or 2$"):
        TrainOptions.stage(3)


def test_the_connector_alone_learns_whatever_else_is_said():
    assert TrainOptions(method="projector", projector=False).projector


def test_the_rate_rises_then_falls_to_nothing():
    schedule = Schedule(steps=100, warmup=0.03)
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[:4] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0])
    assert all(a > b for a, b in zip(factors[3:], factors[4:], strict=False))
    # Half way down after half of the other 97 steps.
    assert 0.49 < schedule.factor(51) < 0.51
    assert factors[99] > 0 and factors[100] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("steps", "warmup", "wanted"), [(100, 0.03, 3), (10, 0.03, 1), (5, 0.0, 0)]
)
def test_steps_of_warmup(steps: int, warmup: float, wanted: int):
    assert Schedule(steps, warmup).warmup_steps == wanted


def test_one_step():
    assert Schedule(1, 0.03).factor(0) == 1.0
    assert Schedule(1, 0.0).factor(0) == 1.0
