"""Measures LoRA training steps at full sizes, ours beside PyTorch with peft.

    python -m benchmarks.train                               # random weights, 0.5B
    python -m benchmarks.train --torch-python .venv-parity/bin/python

Each row is a process of its own, with the same random weights in float32 on a CPU, the
same images, question and answer, and LoRA of rank 16 on all linear layers of the
language model:

- kept: the features of the images are computed before the first step (what `train`
  does); `checkpoint` computes each layer again for its gradients.
- encoded again: every step encodes its images, as other trainers do.
- torch: transformers' FastVLM with peft, as the two document it. It needs a Python with
  torch, transformers, timm and peft.

A step is a batch of images that are read, the loss, its gradients and the optimizer;
medians of `--steps` steps after one more. Beside other work on the machine, CPU seconds
with `--threads 1` vary less than wall time: threads that wait for others spin. Memory
is the process's peak resident size; beside it its ratio to the bytes of all weights.
The last line of stdout is one JSON document.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import random_checkpoint
from fastvlm_mlx.app import machine
from fastvlm_mlx.app.bench import stages
from fastvlm_mlx.app.terminal import note
from fastvlm_mlx.files.cache_dir import cache_dir
from fastvlm_mlx.files.disk_space import format_size

QUESTION = "Describe the image."
ANSWER = "A quiet beach with two people, one boat and a low sun behind thin clouds."
# name: the worker, and what is different in it
ROWS: dict[str, tuple[str, dict[str, bool]]] = {
    "kept": ("ours", {"kept": True}),
    "kept, checkpoint": ("ours", {"kept": True, "checkpoint": True}),
    "encoded again": ("ours", {}),
    "torch": ("torch_peft", {}),
    "torch, checkpoint": ("torch_peft", {"checkpoint": True}),
}


def measure(
    name: str, settings: dict[str, Any], torch_python: str, threads: int
) -> dict[str, Any]:
    """Runs one row; {"failed": reason} where it could not."""
    worker, changes = ROWS[name]
    python = torch_python if worker == "torch_peft" else sys.executable
    told = {"kept": False, "checkpoint": False} | settings | changes
    note(f"{name} ...")
    environment = dict(os.environ)
    if threads:
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
        environment |= dict.fromkeys(names, str(threads))
    done = subprocess.run(
        [python, "-m", f"benchmarks.train.{worker}", json.dumps(told)],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"failed": f"exit code {done.returncode}: {reason}"}
    found = json.loads(done.stdout.splitlines()[-1])
    medians = {unit: statistics.median(found[unit][1:]) for unit in ("seconds", "cpu")}
    return found | {"median": medians}


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The results as Markdown, ratios against the first row."""
    lines = [
        "| | s a step | ratio | CPU s | ratio | first loss | peak | of the weights |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    base = next((r["median"] for r in results.values() if "median" in r), None)
    for name, found in results.items():
        if "failed" in found:
            lines.append(f"| {name} | not measured: {found['failed']} {'| ' * 6}|")
            continue
        assert base is not None
        cells = (
            *(
                text
                for unit in ("seconds", "cpu")
                for text in (
                    f"{found['median'][unit]:.2f}",
                    f"{found['median'][unit] / base[unit]:.2f}",
                )
            ),
            f"{found['losses'][0]:.4f}",
            format_size(found["process_peak"]),
            f"{found['process_peak'] / found['weights']:.2f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train",
        description=(__doc__ or "").splitlines()[0],
    )
    sizes = list(random_checkpoint.SIZES)
    parser.add_argument("--size", choices=sizes, default="0.5b")
    parser.add_argument("--resolution", type=int, default=1024, help="pixels a side")
    parser.add_argument("--batch", type=int, default=1, help="images in a step")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3, help="measured")
    parser.add_argument("--threads", type=int, default=0, help="of BLAS; 0: its own")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--torch-python", default=sys.executable, metavar="PATH")
    options = parser.parse_args()
    # The same folder as `benchmarks.server_load` has.
    folder = cache_dir() / "peers" / f"{options.size}-{options.resolution}"
    random_checkpoint.make(folder, options.size, options.resolution, dtype="float32")
    images = folder / "images"
    images.mkdir(exist_ok=True)
    shown = stages.variants(stages.example(), images, "JPEG")
    settings = {
        "model": str(folder / "llava"),
        "transformers_model": str(folder / "transformers"),
        "resolution": options.resolution,
        "rank": options.rank,
        "steps": options.steps,
        "question": QUESTION,
        "answer": ANSWER,
        "images": [str(next(shown)) for _ in range(options.batch)],
    }
    results = {
        name: measure(name, settings, options.torch_python, options.threads)
        for name in options.only
    }
    print("\n".join(table(results)))
    facts = machine.facts()
    print(f"\n{options.size}, batch {options.batch}, {machine.line(facts)}")
    print(json.dumps({"settings": settings, "results": results, "machine": facts}))


if __name__ == "__main__":
    main()
