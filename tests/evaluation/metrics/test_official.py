"""Marks equal those of the official evaluation code, pair by pair.

The cases are made by `tests/support/make_metric_goldens.py`.
"""

import json
from typing import Any

import pytest

from fastvlm_mlx.evaluation.metrics import METRICS
from fastvlm_mlx.evaluation.question import Question
from tests.support.paths import GOLDEN

FILES = sorted(GOLDEN.joinpath("metrics").glob("*.json"))


def read(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / "metrics" / f"{name}.json").read_text("utf-8"))


def question(case: list[Any]) -> Question:
    answers, choices, category = case[:3]
    image = b"never opened"
    return Question("1", (image,), "?", tuple(answers), category, tuple(choices))


def test_every_public_metric_has_goldens():
    own = {"exact", "text", "fields"}
    assert {file.stem for file in FILES} == set(METRICS) - own


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_marks_are_the_official_ones(name: str):
    golden = read(name)
    cases = golden["cases"]
    assert golden["commit"] and golden["source"].startswith("https://github.com/")
    assert len({json.dumps(case) for case in cases}) >= 200
    wrong = [
        (case, mark)
        for case in cases
        if (mark := METRICS[name].mark(question(case), case[3]))
        != pytest.approx(case[4], abs=1e-12)
    ]
    assert not wrong, wrong[:3]
    # Neither always right nor always wrong.
    assert 0.05 < sum(case[4] for case in cases) / len(cases) < 0.95


def test_figures_of_pope_are_the_official_ones():
    golden = read("yes_no")
    extra = METRICS["yes_no"].extra
    assert extra is not None
    figures = extra([(question(case), case[3]) for case in golden["cases"]])
    totals = golden["totals"]
    assert figures["F1"] == pytest.approx(totals["F1 score"])
    assert figures["precision"] == pytest.approx(totals["Precision"])
    assert figures["recall"] == pytest.approx(totals["Recall"])
    assert figures["yes ratio"] == pytest.approx(totals["Yes ratio"])
