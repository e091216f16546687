"""The paper's efficiency claims on our own runtime: one command, one report.

    python -m benchmarks.paper.report                    # all; minutes to an hour
    python -m benchmarks.paper.report --budget 5 --rounds 1 --out /tmp/paper

Writes report.md, its plots, and report.json into `--out` (docs/paper). Speed does not
depend on the weights, so they are random. Absolute times cannot agree with the paper's
(an M1 Max: encoder on the Neural Engine, language model on the GPU), so each table
stands beside the paper's as ratios: each row divided by the table's first.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks.paper import figures
from benchmarks.paper.encoders import ENCODERS, FASTVITHD
from benchmarks.paper.measure import Bench, Key, Time
from fastvlm_mlx import device
from fastvlm_mlx.app import bench_machine, charts, roofline
from fastvlm_mlx.app.charts import number

TILING = (512, 768, 1024, 1536)
TILING_MODEL = "Qwen2-0.5B"
MULTI_SCALE_RESOLUTION = 768
OUT = Path("docs/paper")


def wanted() -> Iterator[Key]:
    """Everything that the report needs to know."""
    for table in figures.ENCODER_TABLES.values():
        for row in table:
            yield row.encoder, row.resolution, 1
    for row in figures.TABLE_10:
        yield row.encoder, row.resolution, 1
        yield row.language, row.tokens
    for resolution in TILING:
        for key in (direct(resolution), tiled(resolution)):
            yield from key
    for name in figures.MULTI_SCALE:
        yield name, MULTI_SCALE_RESOLUTION, 1


def direct(resolution: int) -> tuple[Key, Key]:
    """The whole picture at `resolution`: what is encoded, what is prefilled."""
    tokens = ENCODERS[FASTVITHD].tokens(resolution)
    return (FASTVITHD, resolution, 1), (TILING_MODEL, tokens)


def tiled(resolution: int) -> tuple[Key, Key]:
    """The same in 2x2 tiles and an overview, each of half the side, as one batch."""
    tokens = 5 * ENCODERS[FASTVITHD].tokens(resolution // 2)
    return (FASTVITHD, resolution // 2, 5), (TILING_MODEL, tokens)


def show(time: Time) -> str:
    """Seconds, with a mark if they were computed."""
    return number(time.seconds) + ("" if time.measured else " *")


def encoder_table(bench: Bench, rows: tuple[figures.Encode, ...]) -> list[str]:
    """Seconds and ratios; the first row is what the others are divided by."""
    lines = [
        "| encoder | px | tokens | parameters | paper ms | here s | of limit |"
        " paper, ratio | here, ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = bench.time((rows[0].encoder, rows[0].resolution, 1)).seconds
    for row in rows:
        encoder = ENCODERS[row.encoder]
        time = bench.time((row.encoder, row.resolution, 1))
        lines.append(
            f"| {row.encoder} | {row.resolution} | {encoder.tokens(row.resolution)} |"
            f" {encoder.published:g}M | {row.milliseconds:g} | {show(time)} |"
            f" {time.fraction:.0%} | {row.milliseconds / rows[0].milliseconds:.2f}x |"
            f" {time.seconds / base:.2f}x |"
        )
    return lines


def system(bench: Bench, row: figures.System) -> tuple[Time, Time]:
    """Encoding all crops, and prefilling the visual tokens."""
    one = bench.time((row.encoder, row.resolution, 1))
    encode = Time(row.crops * one.seconds, one.measured, one.fraction)
    return encode, bench.time((row.language, row.tokens))


def system_table(bench: Bench) -> list[str]:
    lines = [
        "| system | encoder | language model | px | tokens | paper ms: encode + prefill"
        " = TTFT | here s: encode + prefill = TTFT | paper, ratio | here, ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = figures.TABLE_10[0]
    base = sum(time.seconds for time in system(bench, first))
    for row in figures.TABLE_10:
        encode, prefill = system(bench, row)
        total = encode.seconds + prefill.seconds
        encoded, prefilled, ttft = row.milliseconds
        crops = f"{row.crops} x {row.resolution}" if row.crops > 1 else row.resolution
        lines.append(
            f"| {row.name} | {row.encoder} | {row.language} | {crops} | {row.tokens} |"
            f" {encoded:g} + {prefilled:g} = {ttft:g} |"
            f" {show(encode)} + {show(prefill)} = {number(total)} |"
            f" {ttft / first.milliseconds[2]:.2f}x | {total / base:.2f}x |"
        )
    return lines


def claims(bench: Bench) -> list[str]:
    """The factors of the abstract."""
    rows = {(row.name, row.resolution, row.language): row for row in figures.TABLE_10}
    lines = [
        "| slower | faster | the paper's text | the paper's table 10 | here |",
        "|---|---|---|---|---|",
    ]
    for slow, fast, claimed in figures.CLAIMS:
        ours = [
            sum(t.seconds for t in system(bench, rows[key])) for key in (slow, fast)
        ]
        theirs = [rows[key].milliseconds[2] for key in (slow, fast)]
        names = [f"{name} at {px} px, {model}" for name, px, model in (slow, fast)]
        lines.append(
            f"| {names[0]} | {names[1]} | {claimed:g}x | {theirs[0] / theirs[1]:.1f}x |"
            f" {ours[0] / ours[1]:.1f}x |"
        )
    return lines


def tiling_table(bench: Bench) -> list[str]:
    lines = [
        "| px | direct: tokens | encode s | TTFT s | 2x2 and overview: tokens |"
        " encode s | TTFT s | TTFT, 2x2 / direct |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for resolution in TILING:
        cells, totals = [], []
        for keys in (direct(resolution), tiled(resolution)):
            encode, prefill = (bench.time(key) for key in keys)
            totals.append(encode.seconds + prefill.seconds)
            mark = "" if encode.measured and prefill.measured else " *"
            cells += [str(keys[1][1]), show(encode), f"{number(totals[-1])}{mark}"]
        ratio = totals[1] / totals[0]
        lines.append(f"| {resolution} | {' | '.join(cells)} | {ratio:.2f}x |")
    return lines


def multi_scale_table(bench: Bench) -> list[str]:
    lines = ["| features | here s | ratio |", "|---|---|---|"]
    names = figures.MULTI_SCALE
    times = [bench.time((name, MULTI_SCALE_RESOLUTION, 1)) for name in names]
    for name, found in zip(names, times, strict=True):
        ratio = found.seconds / times[0].seconds
        lines.append(f"| {name} | {show(found)} | {ratio:.3f}x |")
    return lines


def plots(bench: Bench, out: Path) -> None:
    """encode.png, ttft.png, tiling.png."""
    series: dict[str, dict[float, float]] = {}
    for key in dict.fromkeys(key for key in wanted() if len(key) == 3 and key[2] == 1):
        name, resolution, _ = key
        if bench.time(key).measured and "," not in name:
            series.setdefault(name, {})[resolution] = bench.time(key).seconds
    if series:
        charts.lines(
            out / "encode.png", "Encoding one picture, measured", "s / px", series
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
        f"TTFT with {TILING_MODEL}: direct resolution against tiles",
        "s / px",
        {
            label: {
                resolution: sum(bench.time(key).seconds for key in way(resolution))
                for resolution in TILING
            }
            for label, way in ways.items()
        },
    )


CLOCKS = {"wall": time.perf_counter, "cpu": roofline.busy_clock}
CLOCK_NOTES = {
    "wall": "",
    "cpu": "**Times are CPU seconds of all threads, divided by the number of cores**,"
    " because other programs were running: what a run would take with the cores to"
    " itself, if it kept them all busy.",
}


def markdown(bench: Bench, machine: dict[str, Any], rounds: int, clock: str) -> str:
    """The report."""
    speed = bench.speed
    parts = [
        "# The paper's efficiency tables on this runtime",
        "Made by `python -m benchmarks.paper.report`; do not edit.",
        f"Machine: {bench_machine.line(machine)}. Weights are random"
        f" ({str(bench.dtype).removeprefix('mlx.core.')}). Medians of {rounds} runs"
        " after one of warm-up. Measured limits:"
        f" {speed.flops / 1e9:.0f} GFLOP/s in matrix products,"
        f' {speed.bytes / 1e9:.1f} GB/s copying; "of limit" is the share of them.',
        CLOCK_NOTES[clock],
        "A time marked * was **computed**, not measured: the size is too large or too"
        " slow for this machine. It is FLOPs and bytes at the measured limits, divided"
        " by the share of them that the same network reached at its largest measured"
        " size (the median of all, where none was measured).",
        "The paper measured on an M1 Max, encoder on the Neural Engine, language model"
        " on the GPU. So only ratios compare: each row divided by the first of its"
        " table.",
    ]
    for title, rows in figures.ENCODER_TABLES.items():
        parts += [f"## {title}", "\n".join(encoder_table(bench, rows))]
    parts += [
        "![Encoding by resolution](encode.png)",
        "## Table 10: TTFT = encoding + prefill of the visual tokens",
        "\n".join(system_table(bench)),
        f"Left out: {figures.LEFT_OUT}. ConvLLaVA's fifth stage is left out of its"
        " encoder, not of its tokens.",
        "![TTFT](ttft.png)",
        "## The abstract's factors",
        "\n".join(claims(bench)),
        "## Direct resolution against tiles (figure 6)",
        "\n".join(tiling_table(bench)),
        "The paper prints no numbers for this figure; it finds direct resolution better"
        " up to 1536 px. The overview makes 2x2 tiles encode 1.25 times the pixels and"
        " prefill 1.25 times the tokens.",
        "![Tiling](tiling.png)",
        "## Multi-scale features (table 2)",
        "\n".join(multi_scale_table(bench)),
        f"FastViT at {MULTI_SCALE_RESOLUTION} px, stages 0 to 2 pooled to the last"
        " grid. The paper gives accuracies (62.6 without, 62.7 with AvgPool, 62.9 with"
        " DWConv) and no times.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--budget", type=float, default=60, help="seconds that one run may take"
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: CPU time over all cores, for a CPU that others use too",
    )
    options = parser.parse_args()

    def note(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    mx.random.seed(0)
    dtype, clock = device.device_dtype(), CLOCKS[options.clock]
    bench = Bench(roofline.measure(dtype, clock), options.budget, note, clock)
    bench.measure(wanted(), options.rounds)
    if not bench.runs:
        parser.exit(
            1, f"error: --budget {options.budget}: nothing is so quick; raise it\n"
        )
    # Others may have kept the machine from its best at the beginning.
    after = roofline.measure(dtype, clock)
    bench.speed = roofline.Speed(
        "this machine",
        max(bench.speed.flops, after.flops),
        max(bench.speed.bytes, after.bytes),
    )
    machine = bench_machine.facts()
    options.out.mkdir(parents=True, exist_ok=True)
    plots(bench, options.out)
    text = markdown(bench, machine, options.rounds, options.clock)
    (options.out / "report.md").write_text(text, encoding="utf-8")
    times = [
        {"key": list(key), "runs": bench.runs.get(key), **asdict(bench.time(key))}
        for key in dict.fromkeys(wanted())
    ]
    content = {"machine": machine, "speed": asdict(bench.speed), "times": times}
    (options.out / "report.json").write_text(json.dumps(content) + "\n")
    print(options.out / "report.md")


if __name__ == "__main__":
    main()
