"""Writes a report that compares the paper's efficiency tables with this machine.

    python -m benchmarks.paper.report                    # all; minutes to an hour
    python -m benchmarks.paper.report --resume         # goes on with an interrupted run
    python -m benchmarks.paper.report --budget 5 --rounds 1 --out /tmp/paper

Writes report.md, its plots, and report.json into `--out` (docs/paper). Speed does not
depend on the weights, so they are random. Absolute times cannot agree with the paper's
(an M1 Max: encoder on the Neural Engine, language model on the GPU), so the tables
compare ratios: each row divided by the first row of its table.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from benchmarks.other_programs import OtherPrograms
from benchmarks.paper import figures
from benchmarks.paper.measure import Bench
from benchmarks.paper.plots import plots
from benchmarks.paper.tables import (
    MULTI_SCALE_RESOLUTION,
    claims,
    computed_table,
    encoder_table,
    multi_scale_table,
    system_table,
    tiling_table,
    wanted,
)
from fastvlm_mlx import device
from fastvlm_mlx.app import machine as this_machine
from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.bench import roofline
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.atomic_write import staged_file

OUT = Path("docs/paper")
ROUNDS = 3  # that a median needs at least
BUSY = 0.1  # share of the cores; more by other programs is told


def busy_clock() -> float:
    """Seconds that all of this process's threads computed, divided by the cores.

    For a CPU that other programs use too: what a run would take with all cores to
    itself, if it kept them all busy.
    """
    return time.process_time() / (os.cpu_count() or 1)


CLOCKS = {"wall": time.perf_counter, "cpu": busy_clock}
CLOCK_NOTES = {
    "wall": "",
    "cpu": "**Times are CPU seconds of all threads, divided by the number of cores**,"
    " because other programs were running: what a run would take with the cores to"
    " itself, if it kept them all busy.",
}


def provenance(
    machine: dict[str, Any], rounds: int = ROUNDS, others: float | None = None
) -> list[str]:
    """What a reader must know about the conditions; nothing if they were clean.

    Args:
        machine: its facts, gathered before the first measurement.
        rounds: runs of each size.
        others: the cores that other programs used meanwhile, if that is known.
    """
    found = []
    # Where nothing tells what others used, the load before must do.
    used = machine["load"] / 2 if others is None else others
    if used > BUSY * machine["cores"]:
        told = (
            f"the load was {machine['load']} before the measurements"
            if others is None
            else f"they used {others:.1f} of {machine['cores']} cores"
        )
        found.append(
            f"**Other programs were running**: {told}. Caches and memory were shared"
            " with them, so repeated runs differ more than on an idle machine."
        )
    if rounds < ROUNDS:
        found.append(f"**Only {rounds} of at least {ROUNDS} runs** were made.")
    commit, _, changed = (machine["commit"] or "").partition("+")
    if changed:
        found.append(
            f"**The code had uncommitted changes** over commit {commit}, so no commit"
            " reproduces these numbers exactly."
        )
    return found


def markdown(
    bench: Bench,
    machine: dict[str, Any],
    rounds: int,
    clock: str,
    others: float | None = None,
) -> str:
    """The report."""
    speed = bench.speed
    parts = [
        "# The paper's efficiency tables on this runtime",
        "Made by `python -m benchmarks.paper.report`; do not edit.",
        f"Machine: {this_machine.line(machine)}. Weights are random"
        f" ({str(bench.dtype).removeprefix('mlx.core.')}). Medians of {rounds} runs"
        " after one of warm-up. Measured limits:"
        f" {speed.flops / 1e9:.0f} GFLOP/s in matrix products,"
        f' {speed.bytes / 1e9:.1f} GB/s copying; "of limit" is the share of them.',
        *provenance(machine, rounds, others),
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
        "Each row is composed: the encoders' times, as often as they encode, and the"
        " language model's prefill of the visual tokens, as in the paper. Projectors"
        " and what joins several encoders (Cambrian-1's aggregator, MiniGemini's"
        " mining, MobileVLM's downsampling) are left out, as the paper leaves them out."
        f" Not in the table: {figures.LEFT_OUT}. ConvLLaVA's fifth stage is left out of"
        " its encoder, not of its tokens. For MobileVLM v2 the paper prints 458 both as"
        " prefill and as TTFT; it is taken as TTFT, and what the encoder leaves of it"
        " as prefill.",
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
    if len(computed := computed_table(bench)) > 2:
        parts += ["## How the computed times came about", "\n".join(computed)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(bench: Bench, conditions: dict[str, Any], out: Path) -> None:
    """report.md and its plots."""
    plots(bench, out)
    machine, rounds, clock = (conditions[k] for k in ("machine", "rounds", "clock"))
    text = markdown(bench, machine, rounds, clock, conditions.get("others"))
    (out / "report.md").write_text(text, encoding="utf-8")
    print(out / "report.md")


def read_report(path: Path) -> tuple[Bench, dict[str, Any]]:
    """The measurements and conditions of an earlier run, from report.json."""
    content = json.loads(path.read_text())
    bench = Bench(roofline.Speed(**content["speed"]), 0, lambda text: None)
    for entry in content["times"]:
        if entry["runs"]:
            bench.runs[tuple(entry["key"])] = entry["runs"]
    return bench, content


def keep(bench: Bench, conditions: dict[str, Any], path: Path) -> None:
    """Writes the runs so far, for `take_up`."""
    times = [{"key": list(key), "runs": runs} for key, runs in bench.runs.items()]
    with staged_file(path, overwrite=True) as partial:
        partial.write_text(json.dumps({**conditions, "times": times}) + "\n")


def take_up(bench: Bench, conditions: dict[str, Any], path: Path) -> None:
    """Gives `bench` the runs that an interrupted report kept.

    Raises:
        OptionError: there are none, or they were made under other conditions.
    """
    if not path.is_file():
        raise OptionError(f"--resume: {path} does not exist; leave --resume out")
    earlier, before = read_report(path)
    for key in ("rounds", "clock"):
        if before[key] != conditions[key]:
            raise OptionError(
                f"--resume: {path} has {key} {before[key]}, not {conditions[key]};"
                " leave --resume out"
            )
    old, new = (each["machine"]["commit"] for each in (before, conditions))
    if old != new:
        raise OptionError(
            f"--resume: {path} is of commit {old}, not {new}; leave --resume out"
        )
    bench.runs.update(earlier.runs)
    bench.speed = faster(bench.speed, earlier.speed)


def faster(one: roofline.Speed, other: roofline.Speed) -> roofline.Speed:
    """The better of each: other work may have slowed the machine down."""
    return roofline.Speed(
        "this machine", max(one.flops, other.flops), max(one.bytes, other.bytes)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.report",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--budget", type=float, default=60, help="seconds that one run may take"
    )
    parser.add_argument(
        "--again",
        action="store_true",
        help="measure nothing: write the report anew from OUT/report.json",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with OUT/unfinished.json, which an interrupted run left",
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
        else:
            terminal.note(text)

    if options.again:
        write(*read_report(options.out / "report.json"), options.out)
        return
    facts = this_machine.facts()  # the load, before anything is measured
    for warning in provenance(facts, options.rounds):
        terminal.note(f"warning: {warning.replace('**', '')}")
    others = OtherPrograms()
    mx.random.seed(0)
    dtype, clock = device.device_dtype(), CLOCKS[options.clock]
    bench = Bench(roofline.measure(dtype, clock), options.budget, note, clock)
    options.out.mkdir(parents=True, exist_ok=True)
    conditions: dict[str, Any] = {
        "machine": facts,
        "speed": asdict(bench.speed),
        "rounds": options.rounds,
        "clock": options.clock,
    }
    unfinished = options.out / "unfinished.json"
    if options.resume:
        try:
            take_up(bench, conditions, unfinished)
        except OptionError as error:
            parser.exit(1, f"error: {error}\n")
    bench.measure(wanted(), options.rounds, lambda: keep(bench, conditions, unfinished))
    if not bench.runs:
        parser.exit(
            1, f"error: --budget {options.budget}: nothing is so quick; raise it\n"
        )
    bench.speed = faster(bench.speed, roofline.measure(dtype, clock))
    conditions |= {"speed": asdict(bench.speed), "others": others.cores()}
    times = [
        {"key": list(key), "runs": bench.runs.get(key), **asdict(bench.time(key))}
        for key in dict.fromkeys(wanted())
    ]
    content = json.dumps({**conditions, "times": times})
    (options.out / "report.json").write_text(content + "\n")
    unfinished.unlink(missing_ok=True)
    write(bench, conditions, options.out)


if __name__ == "__main__":
    main()
