"""Two processes of `mlx.launch` train what one does with the whole batch."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from tests.support.paths import ROOT
from tests.support.training_process import command, environment, tensors


@pytest.fixture(scope="module")
def launcher() -> Path:
    path = Path(sys.executable).with_name("mlx.launch")
    if not path.exists() or not mx.distributed.is_available():
        pytest.skip("mlx.launch cannot run here")
    return path


def run(arguments: list[str]) -> tuple[int, list[dict], str]:
    # mlx.launch reads from an input at its end without a pause.
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            arguments,
            stdin=reading,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
            timeout=300,
        )
    finally:
        os.close(reading)
        os.close(writing)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return done.returncode, [json.loads(line) for line in lines], done.stderr


def free_port() -> int:
    """The first of two free ones, for two processes.

    None that a system gives to whoever asks for any (from 49152, on Linux from 32768
    on): another test would get one before it is used here.
    """
    for port in random.Random().sample(range(20_000, 32_000), 100):
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port
    raise OSError("no two free ports")


def losses(events: list[dict]) -> list[float]:
    names = ("loss", "held_out_loss")
    return [e[n] for e in events for n in names if e.get(n) is not None]


def launched(launcher: Path, arguments: list[str]) -> list[str]:
    port = str(free_port())
    return [str(launcher), "-n", "2", "--starting-port", port, "--", *arguments]


def launch(launcher: Path, folder: Path, out: Path, **options) -> list[dict]:
    arguments = command(folder, out, **options)
    code, events, error = run(launched(launcher, arguments))
    # Its own code is 0 whatever became of the processes.
    assert code == 0 and "exited with code" not in error, error
    return events


def test_two_processes_against_one(launcher: Path, tmp_path: Path):
    # An odd batch: the second process has fewer rows, and of the last batch none.
    options = {"dropout": 0.0, "batch": 5, "epochs": 2}
    one = tmp_path / "one.safetensors"
    code, alone, error = run(command(tmp_path / "one", one, **options))
    assert code == 0, error
    two = tmp_path / "two.safetensors"
    both = launch(launcher, tmp_path / "two", two, **options)
    assert [e["event"] for e in both] == [e["event"] for e in alone]
    assert losses(both) == pytest.approx(losses(alone), abs=1e-5)
    first, second, single = (tensors(path) for path in (two, f"{two}.1", one))
    for name, array in single.items():
        assert np.array_equal(first[name], second[name])
        assert np.allclose(first[name], array, rtol=0, atol=1e-4), name
    # Resumed by both, where only the first one kept a state: as on two machines.
    again = launch(launcher, tmp_path / "two", two, **options)
    assert [e["event"] for e in again] == ["Started"]
    assert again[0]["step"] == again[0]["steps"] == 4


@pytest.mark.slow
def test_ctrl_c_stops_both_after_the_same_step(launcher: Path, tmp_path: Path):
    """Each may notice it in another step, and would wait for the other for ever."""
    out = tmp_path / "out.safetensors"
    second = Path(f"{out}.1")
    options = {"dropout": 0.0, "epochs": 200, "patience": 0}
    arguments = launched(launcher, command(tmp_path / "run", out, **options))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        arguments,
        stdin=reading,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if '"event": "Stepped", "step": 3,' in line:
                os.killpg(process.pid, signal.SIGINT)
                break
        end = time.monotonic() + 120
        while not (out.exists() and second.exists()) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(1)  # both are whole
        first, other = tensors(out), tensors(second)
        assert all(np.array_equal(array, other[n]) for n, array in first.items())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        os.close(reading)
        os.close(writing)
