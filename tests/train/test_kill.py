"""A run that is killed with signal 9 and resumed ends with the undisturbed weights."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from tests.support.training_process import command, killed_at, running, tensors

STEPS = 9


def finish(folder: Path, out: Path) -> list[dict]:
    with running(command(folder, out)) as (process, events):
        seen = list(events)
        assert process.wait() == 0
    return seen


@pytest.mark.parametrize(
    "steps",
    [
        [1, 5],
        pytest.param(
            random.Random(7).sample(range(1, STEPS), 8) + [4, 7], marks=pytest.mark.slow
        ),
    ],
    ids=["two", "ten"],
)
def test_killed_and_resumed(steps: list[int], tmp_path: Path):
    whole = tmp_path / "whole.safetensors"
    undisturbed = finish(tmp_path / "whole", whole)
    delays = random.Random(3)
    wanted = tensors(whole)
    # Kills in one run as long as they are in order; the ten are a run each.
    runs = [steps] if steps == sorted(steps) else [[step] for step in steps]
    for number, kills in enumerate(runs):
        folder, out = tmp_path / f"run-{number}", tmp_path / f"{number}.safetensors"
        for step in kills:
            done = killed_at(folder, out, step, delays.uniform(0, 0.1))
            assert step <= done < STEPS and not out.exists()
        rest = finish(folder, out)
        # What was done since the last state is done again, and nothing else.
        assert rest[0]["event"] == "Started" and rest[0]["step"] <= kills[-1] + 1
        assert rest[0]["step"] >= kills[-1] - 2
        given = tensors(out)
        assert given.keys() == wanted.keys()
        for name, array in wanted.items():
            assert np.allclose(given[name], array, rtol=0, atol=1e-6), (kills, name)
        assert rest[-1]["held_out_loss"] == pytest.approx(
            undisturbed[-1]["held_out_loss"], abs=1e-6
        )
        log = (folder / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in log]
        logged = [r["step"] for r in records if r["event"] == "Stepped"]
        assert logged == list(range(1, STEPS + 1))
        hidden = [path.name for path in folder.iterdir() if path.name[0] == "."]
        assert hidden == []
