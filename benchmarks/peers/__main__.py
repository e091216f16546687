"""Compares fastvlm-mlx with mlx-vlm and transformers (torch), all at their best.

    python -m benchmarks.peers                      # random weights, 0.5B, 1024 px
    python -m benchmarks.peers --model FOLDER --transformers-model FOLDER2
    python -m benchmarks.peers --only ours transformers-float32 --rounds 5
    python -m benchmarks.peers --quick              # small; whether everything runs
    python -m benchmarks.peers --resume FILE        # goes on with an interrupted run

Every peer is run in several settings (`settings.py`): float32 and bfloat16, torch's
also with channels_last; ours in float32, with weights as stored (bfloat16) and in 4
bits. All get the same weights, image, prompt and number of tokens. The checkpoint is
bfloat16 as the released ones are; float32 settings compute with the same values,
widened.

Settings take turns: in every round each runs once, alone, in new processes of a virtual
environment of its own, which this program makes in the cache folder. After the first
round a peer's settings that are more than 1.5 times slower than its best in every
column of speed are left out, and so is what failed. Medians are reported, and ours
divided by the best that any setting of a peer reached in that column.

- TTFT: time to first token, from the call with a path and a prompt, the model loaded.
- cold TTFT: from the start of a new process to the first text of its answer.
- follow-up: TTFT of a second question about the same image, as each peer's own chat
  would ask it.
- CPU seconds: of all threads, for all tokens of the first answer; they vary less than
  wall time on a shared machine. Of little use on a GPU.
- memory: the process's peak resident size, loading included.

Progress goes to stderr. Every finished turn is kept in a file, whose name is shown.

`mlx-vlm` runs with the same BLAS as ours (on Linux MLX's own is slow).
`mlx-vlm-float32-installed` is mlx-vlm as installed, which is so slow on Linux that it
runs once and only with `--only`. What could not run is listed with the reason. The last
line of stdout is one JSON document.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import random_checkpoint
from benchmarks.apart import apart
from benchmarks.other_programs import OtherPrograms
from benchmarks.peers import environments, limits, report, schedule, summary, turn
from benchmarks.peers.models import Models
from benchmarks.peers.records import Records
from benchmarks.peers.settings import NAMES, OURS, Setting, chosen
from fastvlm_mlx.app import machine, terminal
from fastvlm_mlx.app.bench import stages
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.cache_dir import cache_dir

# Times the machine's least time to a first token in float32: how long one answer may
# take, and at least so many seconds. mlx-vlm on a CPU needs a dozen.
PATIENCE, SHORTEST_LIMIT = 25, 60.0
QUICK = {"size": "tiny", "resolution": 256, "rounds": 1, "tokens": 4}


def measure(
    settings: list[Setting],
    place: turn.Place,
    records: Records,
    rounds: int,
    least_ttft: float,
) -> None:
    """All turns of all rounds that are not in `records` yet."""

    def left() -> float:
        return schedule.plan(settings, rounds, records, least_ttft, place.limit)

    terminal.note(
        f"{len(settings)} settings, {rounds} rounds; about {left() / 60:.0f} minutes"
    )
    with tempfile.TemporaryDirectory() as folder, _steps() as step:
        files = stages.variants(stages.example(), Path(folder), "JPEG")
        for number in range(rounds):
            images = next(files), next(files)
            for setting in schedule.due(settings, number, records):
                if records.has(setting.name, number):
                    continue
                turns = len(schedule.remaining(settings, rounds, records))
                step(
                    len(records.turns),
                    len(records.turns) + turns,
                    f"round {number + 1} of {rounds}: {setting.name},"
                    f" about {left() / 60:.0f} min left",
                )
                others = OtherPrograms()
                found = turn.measure(setting, place, images)
                records.add({**found, "round": number, "others": others.cores()})


@contextmanager
def _steps() -> Iterator[Any]:
    """A bar on a terminal, a line for each step in a pipe."""
    with terminal.progress("measuring", count=True) as update:

        def step(done: int, total: int, words: str) -> None:
            if sys.stderr.isatty():
                update(done, total, words)
            else:
                terminal.note(words)

        yield step


def others(records: Records) -> float | None:
    """The cores that other programs used, over all turns."""
    known = [turn for turn in records.turns if turn.get("others") is not None]
    if not known:
        return None
    spent = sum(turn["others"] * turn["seconds"] for turn in known)
    return spent / sum(turn["seconds"] for turn in known)


def sources(options: argparse.Namespace, folder: Path) -> tuple[Models, str]:
    """The model in the peers' layouts, and what it is called."""
    if options.model is None and options.transformers_model is None:
        name = f"{options.size}-{options.resolution}-bfloat16"
        terminal.note(f"random weights of {options.size} in {folder / name}")
        apart(
            random_checkpoint.make,
            folder / name,
            options.size,
            options.resolution,
            options.tokenizer,
        )
        found = {key: folder / name / key for key in ("llava", "transformers")}
        return Models(found, folder / name), f"random {options.size}"
    found = {"llava": options.model, "transformers": options.transformers_model}
    return Models(found, folder / "given"), str(options.model)


def model_config(models: Models) -> Any:
    """The model's configuration; None without Apple's layout."""
    from fastvlm_mlx.files.json_file import read_json
    from fastvlm_mlx.model.config import ModelConfig
    from fastvlm_mlx.model_folder import converted

    if (source := models.sources["llava"]) is None:
        return None
    folder = apart(converted, source)
    return ModelConfig.from_dict(read_json(folder / "config.json"))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures everything that is asked for; the document.

    Raises:
        FastVLMError: the model or the file of turns cannot be used.
    """
    for requirement in options.pin:
        environments.pin(requirement)
    facts = machine.facts()  # the load, before anything is measured
    folder = cache_dir() / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    models, name = sources(options, folder)
    config = model_config(models)
    settings = chosen(options.only)
    kept = options.resume or folder / f"turns-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    records = Records(
        kept,
        {
            "commit": facts["commit"],
            "model": name,
            "resolution": options.resolution,
            "tokens": options.tokens,
        },
    )
    terminal.note(f"turns are kept in {kept}; go on with them by --resume {kept}")
    measured = [limits.measure()]
    least = 1.0
    if config is not None:
        tokens = config.vision.tokens(options.resolution) + 24
        least = limits.least(
            config, "float32", measured[0], options.resolution, tokens
        )["ttft"]
    place = turn.Place(
        models,
        folder,
        dict(entry.split("=", 1) for entry in options.python),
        options.resolution,
        options.tokens,
        options.limit or max(PATIENCE * least, SHORTEST_LIMIT),
    )
    for setting in settings:
        turn.prepare(setting, place)
    measure(settings, place, records, options.rounds, least)
    measured.append(limits.measure())
    ours = (t for t in records.turns if t["setting"].startswith(OURS))
    conditions = {
        "machine": facts,
        "date": time.strftime("%Y-%m-%d"),
        "others": others(records),
        "model": name,
        "resolution": options.resolution,
        "tokens": options.tokens,
        "rounds": options.rounds,
        "prompt_tokens": next((t.get("prompt_tokens") for t in ours), None),
    }
    return summary.document(
        settings, records, limits.fastest(measured), config, conditions
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=(__doc__ or "").split("\n")[0],
        epilog="The docstring of benchmarks/peers/__main__.py defines the measures.",
    )
    add = made.add_argument
    add("--model", type=Path, help="Apple's layout, for us and mlx-vlm")
    add("--transformers-model", type=Path, help="the same, fast_vlm")
    add("--size", choices=random_checkpoint.SIZES, default="0.5b")
    add("--tokenizer", type=Path, default=random_checkpoint.TOKENIZER)
    add("--resolution", type=int, default=1024)
    add("--rounds", type=int, default=3)
    add("--tokens", type=int, default=16, help="of each answer")
    add("--only", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    add("--quick", action="store_true", help="one round of a small model at 256 px")
    add(
        "--limit",
        type=float,
        metavar="SECONDS",
        help=f"for one answer (default: {PATIENCE} times the machine's least time)",
    )
    add("--resume", type=Path, metavar="FILE", help="go on with the turns kept in it")
    add("--out", type=Path, metavar="FILE", help="write the JSON document there too")
    add(
        "--pin",
        nargs="+",
        default=[],
        metavar="PACKAGE==VERSION",
        help="install this version in the peers' environments",
    )
    add(
        "--python",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="use this interpreter for a peer instead of setting one up",
    )
    return made


def main() -> None:
    options = parser().parse_args()
    if options.quick:
        vars(options).update(QUICK)
    try:
        document = run(options)
        text = json.dumps(document)
        if options.out is not None:
            with staged_file(options.out, overwrite=True) as partial:
                partial.write_text(text + "\n", encoding="utf-8")
    except FastVLMError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        terminal.note("interrupted; the finished turns are kept")
        sys.exit(terminal.CANCELLED)
    print(report.table(document), end="\n\n")
    print(text)


if __name__ == "__main__":
    main()
