"""The loss curves of a run as an image, out of its log."""

import json
from pathlib import Path
from typing import Any

from fastvlm_mlx.app import charts

POINTS = 60  # of the training loss; more steps are averaged


def draw(log: Path, path: Path, title: str) -> None:
    """The training loss and the held-out loss over the steps, as `.png` or `.jpg`.

    Args:
        log: a run's `log.jsonl`, with at least one step.
        path: the image to write.
        title: stands over it.
    Raises:
        OptionError: `path` cannot be written, or holds no chart of ours.
    """
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    series = {"training": _averaged(_steps(records))}
    if held_out := _held_out(records):
        series["held out"] = held_out
    charts.check(path)  # somebody may have made it meanwhile
    charts.lines(path, title, "nats", series)


def _steps(records: list[dict[str, Any]]) -> list[tuple[float, float]]:
    return [(r["step"], r["loss"]) for r in records if r.get("event") == "Stepped"]


def _held_out(records: list[dict[str, Any]]) -> dict[float, float]:
    return {
        record["step"]: record["held_out_loss"]
        for record in records
        if record.get("event") in ("Started", "EpochEnded")
        and record.get("held_out_loss") is not None
    }


def _averaged(points: list[tuple[float, float]]) -> dict[float, float]:
    """At most POINTS of them: each the mean of its neighbours, at the last one's x."""
    size = max(1, -(-len(points) // POINTS))
    groups = [points[at : at + size] for at in range(0, len(points), size)]
    return {group[-1][0]: sum(y for _, y in group) / len(group) for group in groups}
