"""Whole runs: they learn, keep the best, stop, are interrupted and go on."""

import json
import signal
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from fastvlm_mlx.adapters.files import read_adapter, write_adapter
from fastvlm_mlx.errors import (
    AdapterError,
    CheckpointError,
    DataError,
    OptionError,
    TrainingError,
)
from fastvlm_mlx.train.events import EpochEnded, Event, Started, Stepped
from fastvlm_mlx.train.learner import Learner
from fastvlm_mlx.train.loop import Loop, TrainingSet
from fastvlm_mlx.train.options import TrainOptions
from fastvlm_mlx.train.run import TrainResult, train
from fastvlm_mlx.train.state import STATE, StateFiles
from tests.support.mock_model import MockModel
from tests.support.training_sets import training_set

QUICK = TrainOptions(rank=4, lr=5e-3, epochs=2, batch=2)


def run(options: TrainOptions = QUICK, **rest: Any) -> TrainResult:
    data = rest.pop("data", training_set())
    return train(rest.pop("model", MockModel()), data, options, **rest)


def flat(model: Any) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))  # type: ignore


def same(a: TrainResult, b: TrainResult, atol: float = 1e-6) -> bool:
    first, second = a.adapter.tensors, b.adapter.tensors
    return first.keys() == second.keys() and all(
        np.allclose(first[n], second[n], rtol=0, atol=atol) for n in first
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "dora", "dropout": 0.1},
        {"method": "full", "lr": 1e-3, "projector": True, "checkpoint": True},
        {"method": "projector", "projector_lr": 1e-2},
    ],
    ids=lambda options: options.get("method", "lora"),
)
def test_it_learns(options: dict, tmp_path):
    events: list[Event] = []
    model = MockModel()
    model.feature_cache.put("an image", [mx.zeros(3)])
    result = run(replace(QUICK, **options), model=model, on_event=events.append)
    before, *after = result.held_out_losses
    assert result.stopped == "finished" and result.fault is None
    assert [before, *after] == sorted([before, *after], reverse=True)  # type: ignore
    assert len({before, *after}) == 3 and result.best_epoch == 2
    assert result.train_losses[0] > result.train_losses[1]
    started, *steps, last = events
    assert isinstance(started, Started) and isinstance(last, EpochEnded)
    assert (started.step, started.steps, started.epochs) == (0, 6, 2)
    assert started.held_out_loss == before and started.seconds
    counted = [e for e in steps if isinstance(e, Stepped)]
    assert [e.step for e in counted] == [1, 2, 3, 4, 5, 6]
    assert [e.epoch for e in counted] == [1, 1, 1, 2, 2, 2]
    assert counted[0].seconds_left > counted[-1].seconds_left
    assert counted[0].peak_bytes > 0 and counted[0].gradient_norm > 0
    assert last.is_best and last.held_out_loss == after[1]
    # The model has the adapter on it, and does what was measured.
    assert len(model.feature_cache) == 0 and not model.training
    write_adapter(tmp_path / "adapter", result.adapter)
    read = read_adapter(tmp_path / "adapter")
    assert read.tensors.keys() == result.adapter.tensors.keys()
    assert (read.projector is not None) == result.adapter.spec.projector
    installed = flat(model.language_model)
    assert all(mx.array_equal(installed[n], a) for n, a in read.tensors.items())


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    options = replace(QUICK, epochs=1, dropout=0.2)
    first, again = run(options), run(options)
    assert same(first, again, atol=0)
    assert not same(first, run(replace(options, seed=1)))


def test_accumulation_is_the_larger_batch():
    """To the step: of 8 rows, twice 4 are once 8, whatever their order."""
    data = training_set(8, 0)
    options = replace(QUICK, epochs=1, clip=0.0)
    large = run(replace(options, batch=8), data=data)
    small = run(replace(options, batch=4, accumulate=2), data=data)
    assert large.train_losses == pytest.approx(small.train_losses, rel=1e-6)
    assert same(large, small, atol=1e-5)
    assert large.held_out_losses == (None, None) and large.best_epoch == 1


def held_out(monkeypatch, losses: list[float]) -> None:
    """Makes the measurements of a run come out as `losses`."""
    given = iter(losses)
    monkeypatch.setattr(Loop, "_held_out_loss", lambda self, parameters: next(given))


def test_the_best_epoch_is_kept_and_the_run_ends_early(monkeypatch, tmp_path):
    held_out(monkeypatch, [5.0, 3.0, 4.0, 3.5])
    folder = tmp_path / "run"
    options = replace(QUICK, epochs=9, patience=2)
    result = run(options, folder=folder)
    assert result.stopped == "early" and result.best_epoch == 1
    assert result.held_out_losses == (5.0, 3.0, 4.0, 3.5)
    # The rates are of nine epochs: one alone, with those.
    held_out(monkeypatch, [5.0, 3.0, 4.0, 3.5])
    kept: list[TrainResult] = []

    def stop(event: Event) -> None:
        if isinstance(event, EpochEnded) and event.epoch == 1:
            signal.raise_signal(signal.SIGINT)

    kept.append(run(options, on_event=stop))
    assert same(kept[0], result, atol=0)
    best = StateFiles(folder, {}).read_best()
    name = "model.layers.0.mlp.up_proj.lora_b"
    assert mx.array_equal(best[f"language_model.{name}"], result.adapter.tensors[name])


def test_without_patience_all_epochs_are_done(monkeypatch):
    held_out(monkeypatch, [1.0, 3.0, 4.0, 5.0, 6.0])
    result = run(replace(QUICK, epochs=4, patience=0))
    assert result.stopped == "finished" and result.best_epoch == 1


def failing_at(monkeypatch, step: int) -> None:
    true = Learner.gradients

    def gradients(self, parameters, batch, key):
        nonlocal step
        step -= 1
        loss, found = true(self, parameters, batch, key)
        return (float("nan") if step == 0 else loss), found

    monkeypatch.setattr(Learner, "gradients", gradients)


def test_a_loss_that_is_no_number_keeps_the_best(monkeypatch, tmp_path):
    failing_at(monkeypatch, 5)
    model, folder = MockModel(), tmp_path / "run"
    result = run(model=model, folder=folder)
    assert result.stopped == "diverged" and result.best_epoch == 1
    assert "\n" not in str(result.fault)
    assert str(result.fault).startswith("loss nan, gradients of norm ")
    assert str(result.fault).endswith(
        "step 5: epoch 1, the best so far, is kept; train with a lower learning rate"
    )
    for array in [*flat(model).values(), *StateFiles(folder, {}).read_best().values()]:
        assert mx.isfinite(array).all()
    only = run(replace(QUICK, epochs=2), on_event=interrupting(3))
    assert same(result, only, atol=0)


def test_a_loss_that_is_no_number_in_the_first_epoch(monkeypatch):
    failing_at(monkeypatch, 2)
    model = MockModel()
    before = flat(model)
    with pytest.raises(TrainingError) as error:
        run(model=model)
    assert str(error.value).endswith(
        "step 2: no epoch was finished; train with a lower learning rate"
    )
    after = flat(model)
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[n], after[n]) for n in before)


def test_a_rate_that_is_much_too_high():
    """Found by itself, not made up: 16-bit overflow would end the same way."""
    data = training_set()
    with pytest.raises(TrainingError, match="train with a lower learning rate"):
        run(replace(QUICK, method="full", lr=1e30, clip=0.0), data=data)


def interrupting(step: int):
    """A callback that presses Ctrl-C after a step."""

    def on_event(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == step:
            signal.raise_signal(signal.SIGINT)

    return on_event


@pytest.mark.parametrize("step", [1, 3, 4])
def test_ctrl_c_and_resume(step: int, tmp_path):
    """In an epoch, at its end, and after the first, with dropout."""
    options = replace(QUICK, dropout=0.1, projector=True)
    whole = run(options)
    events: list[Event] = []
    first = run(options, folder=tmp_path / "run", on_event=interrupting(step))
    assert first.stopped == "interrupted"
    assert first.best_epoch == (step == 4)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    rest = run(options, folder=tmp_path / "run", resume=True, on_event=events.append)
    assert rest.stopped == "finished" and same(whole, rest, atol=0)
    assert rest.held_out_losses == whole.held_out_losses
    assert rest.train_losses == whole.train_losses
    assert isinstance(events[0], Started) and events[0].step >= step
    logged = [
        json.loads(line)
        for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    ]
    steps = [r["step"] for r in logged if r["event"] == "Stepped"]
    epochs = [r["epoch"] for r in logged if r["event"] == "EpochEnded"]
    assert steps == [1, 2, 3, 4, 5, 6] and epochs == [1, 2]


def test_a_finished_run_that_is_resumed_gives_its_adapter_again(tmp_path):
    whole = run(folder=tmp_path / "run")
    again = run(folder=tmp_path / "run", resume=True)
    assert same(whole, again, atol=0) and again.stopped == "finished"


def test_resuming_where_nothing_was_begun_begins(tmp_path):
    result = run(replace(QUICK, epochs=1), folder=tmp_path / "run", resume=True)
    assert result.stopped == "finished"


def test_what_a_run_refuses(tmp_path):
    folder = tmp_path / "run"
    run(replace(QUICK, epochs=1), folder=folder, on_event=interrupting(1))

    def refused(kind: type[Exception], text: str, **changes: Any) -> None:
        model = changes.pop("model", MockModel())
        before = flat(model).keys()
        with pytest.raises(kind) as error:
            run(model=model, **changes)
        assert str(error.value).startswith(text)
        assert "\n" not in str(error.value)
        assert flat(model).keys() == before

    refused(OptionError, f"{folder}: holds a run already; resume it", folder=folder)
    begun = {"folder": folder, "resume": True}
    refused(OptionError, f"{folder}: was begun with epochs 1, not 2", **begun)
    once = replace(QUICK, epochs=1)
    other = {"data": training_set(7), "options": once, **begun}
    refused(OptionError, f'{folder}: was begun with samples "6 + 2, ', **other)
    # Only its cost may change.
    run(replace(once, checkpoint=True, save_every=1), **begun)
    (folder / STATE).write_bytes(b"")
    refused(CheckpointError, f"{folder / STATE}: ", options=once, **begun)
    refused(
        DataError,
        "no samples to learn from",
        data=TrainingSet([], [], training_set().features),
    )
    tuned = MockModel()
    run(once, model=tuned)
    refused(AdapterError, "this model has an adapter already", model=tuned)
    bare = MockModel(projector=None)
    wanted = replace(once, projector=True)
    refused(OptionError, "projector: this model has none", model=bare, options=wanted)


def test_a_state_of_another_model_is_refused(tmp_path, monkeypatch):
    """Were its name and the first weights the same, the sizes would tell."""
    folder = tmp_path / "run"
    once = replace(QUICK, epochs=1)
    run(once, folder=folder)
    monkeypatch.setattr(StateFiles, "_run", lambda self: "{}")
    StateFiles(folder, {}).write(StateFiles(folder, {}).read())
    with pytest.raises(CheckpointError, match="holds the state of another model"):
        run(replace(once, rank=5), folder=folder, resume=True)


def test_states_are_saved_every_few_steps(tmp_path, monkeypatch):
    saved: list[tuple[int, int]] = []
    monkeypatch.setattr(
        StateFiles,
        "write",
        lambda self, state: saved.append(
            (state.facts.step, len(state.facts.held_out_losses))
        ),
    )
    (tmp_path / "run").mkdir()
    data = training_set(10, 2)
    run(replace(QUICK, save_every=2), data=data, folder=tmp_path / "run")
    # 5 steps an epoch; after the last of an epoch only once it was measured.
    assert saved == [(0, 1), (2, 1), (4, 1), (5, 2), (6, 2), (8, 2), (10, 3)]
