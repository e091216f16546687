"""The training benchmark: its rows compute the same, and its table."""

import sys
from itertools import islice
from pathlib import Path

import pytest

from benchmarks.train import __main__ as program
from benchmarks.train.ours import EncodedAgain, steps
from fastvlm_mlx.train.data.features import FeatureStore
from fastvlm_mlx.train.data.samples import Sample
from tests.support.mock_model import MockModel


@pytest.mark.parametrize("checkpoint", [False, True])
def test_kept_features_and_encoding_again_learn_the_same(
    photo: Path, tmp_path: Path, checkpoint: bool
):
    settings = {"rank": 2, "checkpoint": checkpoint}
    samples = [Sample((photo,), (("What is it?", "A cat."),))]
    losses = []
    for kept in (True, False):
        model = MockModel()
        store = FeatureStore(tmp_path, model)
        store.prepare(samples)
        features = store if kept else EncodedAgain(model, store)
        losses.append(list(islice(steps(model, samples, features, settings), 3)))
    first, second = losses
    assert first == pytest.approx(second, rel=2e-2)  # features are kept in float16
    assert first[2] < first[0]


def test_the_table():
    row = {
        "median": {"seconds": 2.0, "cpu": 1.0},
        "losses": [8.98141, 8.5],
        "process_peak": 3_000_000_000,
        "weights": 2_000_000_000,
    }
    slow = row | {"median": {"seconds": 5.0, "cpu": 2.5}}
    lines = program.table({"kept": row, "again": slow, "torch": {"failed": "no torch"}})
    assert lines[2:] == [
        "| kept | 2.00 | 1.00 | 1.00 | 1.00 | 8.9814 | 3.0 GB | 1.50 |",
        "| again | 5.00 | 2.50 | 2.50 | 2.50 | 8.9814 | 3.0 GB | 1.50 |",
        "| torch | not measured: no torch | | | | | | |",
    ]
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_what_cannot_be_measured_says_why(tmp_path: Path):
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\nexec {sys.executable} -c 'import no_torch'\n")
    bare.chmod(0o755)
    found = program.measure("torch", {}, str(bare), 0)
    assert found == {
        "failed": "exit code 1: ModuleNotFoundError: No module named 'no_torch'"
    }
