"""Compares the speed and memory of fastvlm-mlx, mlx-vlm and transformers (torch).

    python -m benchmarks.peers                      # random weights, 0.5B, 1024 px
    python -m benchmarks.peers --model FOLDER --transformers-model FOLDER2
    python -m benchmarks.peers --only ours transformers --rounds 5

Every peer runs in a process and a virtual environment of its own, which this program
makes in the cache folder. All get the same weights, image, prompt and number of tokens,
and take turns in every round, so that other work on the machine affects all of them.
Medians and their ratios are reported.

- TTFT: time to first token, from the call with a path and a prompt, the model loaded.
- cold TTFT: from the start of a new process to the first text of its answer.
- follow-up: TTFT of a second question about the same image, as each peer's own chat
  would ask it.
- CPU seconds: of all threads, for all tokens of the first answer; they vary less than
  wall time on a shared machine. Of little use on a GPU.
- memory: the process's peak resident size, loading included.

Progress goes to stderr, one line a step.

`mlx-vlm` runs with the same BLAS as ours (on Linux MLX's own is slow).
`mlx-vlm-installed` is mlx-vlm as installed, which is so slow on Linux that it runs once
and only with `--only`. What could not run is listed with the reason. The last line of
stdout is one JSON document.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import random_checkpoint
from benchmarks.peers import contenders, report
from fastvlm_mlx.app import machine
from fastvlm_mlx.app.bench import stages
from fastvlm_mlx.app.terminal import note
from fastvlm_mlx.files.cache_dir import cache_dir

PROMPT = "Describe the image."
FOLLOW_UP = "What else is in it?"


def rounds(
    peers: dict[str, contenders.Peer], options: argparse.Namespace
) -> dict[str, dict[str, list[Any]]]:
    """Measures all loaded peers in turn; one that fails is not asked again."""
    found: dict[str, dict[str, list[Any]]] = {name: {} for name in peers}
    shown = stages.example()
    with tempfile.TemporaryDirectory() as folder:
        files = stages.variants(shown, Path(folder), "JPEG")
        for number in range(-options.warmup, options.rounds):
            image = str(next(files))
            for name, peer in peers.items():
                if peer.failed or peer.rounds == 0:
                    continue
                note(f"round {number + 1} of {options.rounds}: {name}")
                answers = turn(peer, image, options.tokens)
                peer.rounds -= 1
                if number >= 0 or peer.slow:
                    for key, value in answers.items():
                        found[name].setdefault(key, []).append(value)
    return found


def turn(peer: contenders.Peer, image: str, tokens: int) -> dict[str, Any]:
    """One image, one question, one follow-up; empty if the peer failed."""
    first = peer.ask(do="first", image=image, prompt=PROMPT, tokens=tokens)
    if first is None:
        return {}
    answers = {
        "ttft": first["ttft"],
        "generation_tps": first["generation_tps"],
        "ids": first["ids"],
        "prompt_tokens": first["prompt_tokens"],
        "cpu_seconds": first["cpu_seconds"],
        "memory": first["peak_memory"],
    }
    if not peer.installed:
        follow = peer.ask(do="follow", prompt=FOLLOW_UP, tokens=2)
        if follow is not None:
            answers["follow_up_ttft"] = follow["ttft"]
    if peer.name == "ours":
        length = first["prompt_tokens"]
        bare = peer.ask(do="bare", positions=length, tokens=tokens)
        if bare is not None:
            answers["bare_tokens_per_second"] = bare["generation_tps"]
    return answers


def cold(
    peers: dict[str, contenders.Peer],
    found: dict[str, dict[str, list[Any]]],
    times: int,
) -> None:
    """Measures cold starts in turn, after the processes of the rounds ended."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image.jpg"
        stages.example().save(image, quality=90)
        for number in range(times):
            for name, peer in peers.items():
                if peer.failed or peer.installed:
                    continue
                note(f"cold start {number + 1} of {times}: {name}")
                seconds = peer.cold(image, PROMPT)
                if seconds is not None:
                    found[name].setdefault("cold_ttft", []).append(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=(__doc__ or "").split("\n")[0],
        epilog="The docstring of benchmarks/peers/__main__.py defines the measures.",
    )
    parser.add_argument("--model", type=Path, help="Apple's layout, for us and mlx-vlm")
    parser.add_argument("--transformers-model", type=Path, help="the same, fast_vlm")
    parser.add_argument("--size", choices=random_checkpoint.SIZES, default="0.5b")
    parser.add_argument("--tokenizer", type=Path, default=random_checkpoint.TOKENIZER)
    parser.add_argument("--resolution", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=16, help="of each answer")
    parser.add_argument("--cold", type=int, default=3, metavar="N", help="cold starts")
    parser.add_argument("--only", nargs="+", choices=contenders.NAMES)
    parser.add_argument(
        "--pin",
        nargs="+",
        default=[],
        metavar="PACKAGE==VERSION",
        help="install this version in the peers' environments",
    )
    parser.add_argument(
        "--slow-rounds",
        type=int,
        help="rounds of mlx-vlm, without warm-up, where it takes minutes",
    )
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="use this interpreter for a peer instead of setting one up",
    )
    options = parser.parse_args()
    folder = cache_dir() / "peers"
    models = {"llava": options.model, "transformers": options.transformers_model}
    if options.model is None:
        name = f"{options.size}-{options.resolution}"
        note(f"random weights of {options.size} in {folder / name}")
        random_checkpoint.make(
            folder / name, options.size, options.resolution, options.tokenizer
        )
        models = {layout: folder / name / layout for layout in models}
    chosen = options.only or [n for n in contenders.NAMES if n != "mlx-vlm-installed"]
    for requirement in options.pin:
        contenders.pin(requirement)
    pythons = dict(entry.split("=", 1) for entry in options.python)
    peers = {}
    for name in chosen:
        note(f"starting {name}")
        peers[name] = contenders.start(
            name, models, options.resolution, folder, pythons
        )
        peers[name].limit(options.rounds, options.warmup, options.slow_rounds)
    try:
        found = rounds(peers, options)
    finally:
        for peer in peers.values():
            peer.stop()
    cold(peers, found, options.cold)
    document = report.document(peers, found, vars(options), machine.facts())
    print(report.table(document), end="\n\n")
    print(json.dumps(document))


if __name__ == "__main__":
    main()
