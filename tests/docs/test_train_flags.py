"""The training example: the demo model learns flags (`examples/train_flags.py`)."""

import runpy
import sys
from pathlib import Path

import pytest

import fastvlm_mlx.train
from fastvlm_mlx.adapters.files import read_adapter
from fastvlm_mlx.evaluation.scoring import Score, score
from fastvlm_mlx.fastvlm import load
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.train.answers import ask, gray_features, questions
from fastvlm_mlx.train.data.read import read_samples
from fastvlm_mlx.train.options import TrainOptions
from fastvlm_mlx.train.training_set import prepare
from tests.support.paths import EXAMPLES


def draw(folder: Path, train: int | None = None, test: int | None = None) -> None:
    flags = runpy.run_path(str(EXAMPLES / "draw_flags.py"))
    if train is not None:
        flags["IMAGES"].update(train=train, test=test)
    list(flags["draw"](folder))


def learn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train_flags.py", str(folder)])
    runpy.run_path(str(EXAMPLES / "train_flags.py"), run_name="__main__")


def test_the_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    draw(tmp_path, train=6, test=2)
    told = {}

    def one_epoch(**options: float) -> TrainOptions:
        told.update(options)
        return TrainOptions(**(options | {"epochs": 1}))  # type: ignore[arg-type]

    monkeypatch.setattr(fastvlm_mlx.train, "TrainOptions", one_epoch, raising=False)
    learn(tmp_path, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "6 samples, 6 images"
    assert lines[-1].startswith("exact ") and lines[-1].endswith("/2")
    assert read_adapter(tmp_path / "adapter").spec.rank == 16
    assert told["epochs"] == 24 and told["projector"]


@pytest.mark.slow
def test_the_demo_learns_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What docs/training.md promises: 80 % right, and chance with images hidden."""
    draw(tmp_path)
    learn(tmp_path, monkeypatch)
    model = load("demo", adapter=tmp_path / "adapter")
    samples, _ = read_samples(tmp_path / "test")
    data = prepare(model, samples)
    gray = gray_features(model, ImageOptions.of(model.config))

    def scored(**hidden: object) -> Score:
        given = ask(model, questions(data.rows), data.features, **hidden)  # type: ignore[arg-type]
        return score([sample.answers[0] for sample in samples], given)

    assert scored().quality >= 0.8
    assert scored(hidden=gray).quality <= 0.2
