"""The report's plots."""

from pathlib import Path

from benchmarks.paper import figures
from benchmarks.paper.measure import Bench
from benchmarks.paper.tables import (
    TILING,
    TILING_MODEL,
    direct,
    system,
    tiled,
    wanted,
)
from fastvlm_mlx.app import charts


def plots(bench: Bench, out: Path) -> None:
    """encode.png, ttft.png, tiling.png."""
    series: dict[str, dict[float, float]] = {}
    for key in dict.fromkeys(key for key in wanted() if len(key) == 3 and key[2] == 1):
        name, resolution, _ = key
        if bench.time(key).measured and "," not in name:
            series.setdefault(name, {})[resolution] = bench.time(key).seconds
    if series:
        charts.lines(
            out / "encode.png",
            "Encoding one image by resolution in px, measured",
            "s",
            series,
        )
    columns = {}
    for row in figures.TABLE_10:
        if row.language != TILING_MODEL:
            continue
        encode, prefill = system(bench, row)
        parts = {"encode": encode.seconds, "prefill": prefill.seconds}
        columns[f"{row.name}\n{row.tokens} tokens"] = parts
    charts.bars(
        out / "ttft.png", f"The paper's TTFT with {TILING_MODEL}, here", "s", columns
    )
    ways = {"direct": direct, "2x2 tiles and overview": tiled}
    charts.lines(
        out / "tiling.png",
        f"TTFT with {TILING_MODEL} by resolution in px: direct against tiles",
        "s",
        {
            label: {
                resolution: sum(bench.time(key).seconds for key in way(resolution))
                for resolution in TILING
            }
            for label, way in ways.items()
        },
    )
