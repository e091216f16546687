"""What `train` says of a run (`app/train/report.py`, `progress.py`, `curves.py`)."""

import json
from pathlib import Path

import pytest
from PIL import Image

from fastvlm_mlx.app import charts
from fastvlm_mlx.app.train import curves, report
from fastvlm_mlx.app.train.progress import Narrator
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.evaluation.scoring import Score, score
from fastvlm_mlx.train.events import EpochEnded, Started, Stepped

RIGHT = ["MALI", "ITALY"] * 10


def answered(count: int) -> Score:
    """That many of 20 questions right."""
    return score(RIGHT, [*RIGHT[:count], *["bottom"] * (20 - count)])


def test_the_scores_of_short_answers():
    assert report.scores(answered(0), answered(17), answered(9), 0.5) == [
        "held out, 20 questions:",
        "  before                      exact 0/20",
        "  after                       exact 17/20",
        "  after, images hidden        exact 9/20",
        "  always the commonest answer exact 10/20",
    ]


def test_the_scores_of_fields():
    right = ['{"total": 3, "date": "today"}']
    none, half = score(right, [""]), score(right, ['{"total": 3}'])
    lines = report.scores(none, half, none, 1.0)
    assert lines[0] == "held out, 1 question:"
    assert lines[-2:] == [
        "  field total                 0/1 -> 1/1",
        "  field date                  0/1 -> 0/1",
    ]
    assert not any("commonest" in line for line in lines)


@pytest.mark.parametrize(
    ("before", "after", "hidden", "lines"),
    [
        (0, 17, 9, ["better than before", "it does look"]),
        (5, 5, 2, ["no better than before: try a higher --lr", "it does look"]),
        (6, 5, 2, ["no better than before: ", "it does look"]),
        (0, 0, 0, ["no better than before: "]),
        (3, 5, 5, ["may be chance (sign test: p = 0.50)", "it does not look"]),
        (0, 12, 13, ["better than before", "it does not look"]),
    ],
)
def test_the_verdict(before: int, after: int, hidden: int, lines: list[str]):
    found = report.verdict(answered(before), answered(after), answered(hidden))
    assert len(found) == len(lines)
    for line, words in zip(found, lines, strict=True):
        assert words in line
    assert ("no better" in found[0]) == (after <= before)


def test_answers_side_by_side():
    expected = [f"answer {n}" for n in range(12)]
    examined = report.Examined(
        images=[f"{n}.png" for n in range(12)],
        expected=expected,
        before=["same"] * 11 + ["a very long\nanswer that goes on"],
        after=["same"] * 11 + ["answer 11"],
        hidden=["same"] * 12,
    )
    lines = report.side_by_side(examined)
    assert len(lines) == 1 + report.SHOWN
    assert lines[0] == "  image   expected   before                    after"
    assert lines[1] == "  11.png  answer 11  a very long answer th...  answer 11"
    assert lines[2].split() == ["0.png", "answer", "0", "same", "same"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.4, "3 s"), (89, "89 s"), (90, "2 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, text: str):
    assert report.duration(seconds) == text


def test_the_events_are_told(capsys):
    shown: list[tuple[int, int, str]] = []
    tell = Narrator(lambda done, total, note="": shown.append((done, total, note)))
    tell(Started(0, 12, 2, 1_500_000, 2.5, 130.0))
    for step in range(1, 13):
        tell(Stepped(step, 12, 1 + step // 7, 1.25, 1e-4, 0.5, 100.0, 2_000_000_000))
        if step % 6 == 0:
            tell(EpochEnded(step // 6, 2, step, 1.5, 2.0 + step / 100, step == 6))
    assert capsys.readouterr().err.splitlines() == [
        "1.50 M parameters learn; 12 steps in 2 epochs; held-out loss before 2.500;"
        " about 2 min",
        "after 5 steps: 2 min left, 2.0 GB of memory used at most",
        "epoch 1/2: loss 1.500, held out 2.060 (best so far)",
        "epoch 2/2: loss 1.500, held out 2.120",
    ]
    assert shown[0] == (1, 12, "epoch 1, loss 1.250") and len(shown) == 12


def test_a_resumed_run_says_where_it_goes_on(capsys):
    tell = Narrator(lambda done, total, note="": None)
    tell(Started(7, 12, 2, 900, None, None))
    tell(EpochEnded(1, 2, 8, 1.5, None, True))
    assert capsys.readouterr().err.splitlines() == [
        "900 parameters learn; going on after step 7 of 12",
        "epoch 1/2: loss 1.500",
    ]


def log_of(folder: Path, steps: int, held_out: bool = True) -> Path:
    loss = 2.0 if held_out else None
    records = [{"event": "Started", "step": 0, "held_out_loss": loss}]
    for step in range(1, steps + 1):
        records.append({"event": "Stepped", "step": step, "loss": 3 - step / steps})
    records.append({"event": "EpochEnded", "step": steps, "held_out_loss": loss})
    records.append({"event": "Scored", "before": {}})
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("held_out", [True, False])
def test_curves(tmp_path: Path, monkeypatch, held_out: bool):
    drawn = {}
    monkeypatch.setattr(charts, "lines", lambda *given: drawn.update(given[3]))
    curves.draw(log_of(tmp_path, 130, held_out), tmp_path / "curves.png", "Loss")
    training = drawn["training"]
    assert len(training) == 44 and list(training)[:2] == [3, 6]  # three in one
    assert training[3] == pytest.approx(3 - 2 / 130)
    assert drawn.get("held out") == ({0: 2.0, 130: 2.0} if held_out else None)


def test_curves_are_an_image_that_replaces_none_of_others(tmp_path: Path):
    log = log_of(tmp_path, 3)
    curves.draw(log, tmp_path / "curves.png", "Loss")
    curves.draw(log, tmp_path / "curves.png", "Loss")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size == (charts.WIDTH, charts.HEIGHT)
    Image.new("RGB", (3, 3)).save(tmp_path / "photo.png")
    with pytest.raises(OptionError, match="photo.png: exists and is no chart"):
        curves.draw(log, tmp_path / "photo.png", "Loss")
