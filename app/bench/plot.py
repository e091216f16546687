"""A benchmark's report as one image: a bar per resolution, a layer per stage."""

from pathlib import Path
from typing import Any

from fastvlm_mlx.app.bench import charts
from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.files.output_check import resolve_output

STAGES = ("decode", "preprocess", "encode", "project", "prefill", "first_token")


def check(path: Path) -> None:
    """Refuses a `path` that `draw` could not or must not write, before measuring.

    Raises:
        OptionError: no image file, in no folder, or a file that is no chart of ours.
    """
    if path.suffix.lower() not in (".png", ".jpg"):
        raise OptionError(f"--plot {path}: name a .png or .jpg file")
    place = resolve_output(path)
    if not place.parent.is_dir():
        raise OptionError(
            f"--plot {path}: cannot be written (no such folder); name another output"
        )
    if place.is_dir() or (place.exists() and not charts.is_chart(place)):
        raise OptionError(
            f"--plot {path}: exists and is no chart of bench; name another output"
        )


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
    check(path)  # somebody may have made it meanwhile
    charts.bars(path, title, "ms", columns)
