"""A benchmark's report as one image: a bar per resolution, a layer per stage."""

from pathlib import Path
from typing import Any

from fastvlm_mlx.app.bench import charts
from fastvlm_mlx.errors import FastVLMError

STAGES = ("decode", "preprocess", "encode", "project", "prefill", "first_token")


def draw(report: dict[str, Any], path: Path) -> None:
    """Stages of TTFT in milliseconds, as `.png` or `.jpg`."""
    columns = {}
    for result in report["results"]:
        label = f"{result['resolution']} px\n{result['encoder']}"
        columns[label] = {
            stage.replace("_", " "): 1000 * result["seconds"][stage]["median"]
            for stage in STAGES
            if stage in result["seconds"]
        }
    if not columns:
        raise FastVLMError("nothing was measured, so there is nothing to draw")
    machine = report["machine"]
    title = f"TTFT by stage: {Path(report['model']).name}, {machine['chip']}"
    try:
        charts.bars(path, title, "ms", columns)
    except OSError as fault:
        reason = (fault.strerror or str(fault)).lower()
        raise FastVLMError(f"{path}: cannot be written ({reason})") from fault
