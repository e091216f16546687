"""A benchmark's report as one image: a bar per resolution, a layer per stage."""

from pathlib import Path
from typing import Any

from fastvlm_mlx.app import charts
from fastvlm_mlx.errors import FastVLMError

STAGES = ("decode", "preprocess", "encode", "project", "prefill", "first_token")


def draw(report: dict[str, Any], path: Path) -> None:
    """Stages of TTFT in milliseconds, as `.png` or `.jpg`.

    Raises:
        FastVLMError: nothing was measured, or `path` cannot be written.
    """
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
    charts.check(path)  # somebody may have made it meanwhile
    charts.bars(path, title, "ms", columns)
