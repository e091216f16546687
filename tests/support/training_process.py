"""A small training run as a process of its own, to be killed or launched twice.

    python -m tests.support.training_process FOLDER OUT [OPTION=VALUE ...]

It goes on from the state in FOLDER, prints each event as a line of JSON, and writes the
adapter's tensors to OUT.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

OPTIONS: dict[str, Any] = {
    "rank": 4,
    "lr": 5e-3,
    "epochs": 3,
    "batch": 2,
    "dropout": 0.1,
    "save_every": 2,
    "projector": True,
}


def main(folder: str, out: str, *changes: str) -> None:
    import mlx.core as mx

    from fastvlm_mlx.train.events import Event
    from fastvlm_mlx.train.options import TrainOptions
    from fastvlm_mlx.train.run import train
    from tests.support.mock_model import MockModel
    from tests.support.training_sets import training_set

    changed = {n: json.loads(v) for n, _, v in (c.partition("=") for c in changes)}

    def show(event: Event) -> None:
        record = {"event": type(event).__name__, **asdict(event)}
        print(json.dumps(record), flush=True)

    result = train(
        MockModel(),
        training_set(),
        TrainOptions(**(OPTIONS | changed)),
        folder=folder,
        resume=True,
        on_event=show,
    )
    rank = mx.distributed.init().rank()
    path = out if rank == 0 else f"{out}.{rank}"
    with open(path, "wb") as file:
        mx.save_safetensors(file, result.adapter.tensors)


def command(folder: Path, out: Path, **changes: Any) -> list[str]:
    """The arguments of a run, Python first."""
    options = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    module = "tests.support.training_process"
    return [sys.executable, "-m", module, str(folder), str(out), *options]


def environment() -> dict[str, str]:
    """One thread: two processes on a small machine would wait for one another's."""
    return os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@contextmanager
def running(arguments: list[str]) -> Iterator[tuple[subprocess.Popen, Iterator[dict]]]:
    """The process, and its events as they come; killed at the end if it still runs."""
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    )
    assert process.stdout is not None
    try:
        yield process, (json.loads(line) for line in process.stdout)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def tensors(path: Path | str) -> dict[str, Any]:
    """The adapter's tensors that a run wrote, as numpy arrays."""
    import mlx.core as mx
    import numpy as np

    loaded: Any = mx.load(str(path), format="safetensors")
    return {name: np.array(array) for name, array in loaded.items()}


def killed_at(folder: Path, out: Path, step: int, delay: float = 0.0) -> int:
    """Runs until `step` is done and `delay` seconds more, then kills it with signal 9.

    Returns:
        the steps that it had done.
    """
    last = 0
    with running(command(folder, out)) as (process, events):
        for event in events:
            last = max(last, event["step"])
            if event["event"] == "Stepped" and last >= step:
                time.sleep(delay)
                break
        process.kill()
    return last


if __name__ == "__main__":
    main(*sys.argv[1:])
