"""`caption` as processes of `mlx.launch`, for tests that end them at any moment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import pytest

LAUNCHER = Path(sys.executable).with_name("mlx.launch")
# Not the installed script: its start takes longer than all the captions.
CODE = "from fastvlm_mlx.app import cli; cli.main()"


def launch(count: int, *arguments: object) -> subprocess.Popen:
    """Starts `caption` in `count` processes, or in one without `mlx.launch`."""
    command = [sys.executable, "-c", CODE, "caption", *map(str, arguments)]
    if count > 1:
        if not LAUNCHER.exists() or not mx.distributed.is_available():
            pytest.skip("mlx.launch cannot run here")
        command = [str(LAUNCHER), "-n", str(count), "--", *command]
    return subprocess.Popen(
        command,
        # mlx.launch reads from an input at its end without a pause.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> str:
    """What the processes said, all ended."""
    assert process.stdout is not None and process.stdin is not None
    said = process.stdout.read()
    process.wait(60)
    process.stdin.close()
    process.stdout.close()
    return said


def members(process: subprocess.Popen) -> list[int]:
    """The processes that a launcher has started, in order."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    return sorted(pid for pid, parent in pairs if parent == process.pid)


def kill(process: subprocess.Popen, which: int | None) -> None:
    """Kills one process of a launch, or all at once with the launcher."""
    started = members(process)
    if which is None or not started:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        os.kill(started[which % len(started)], signal.SIGKILL)
    finished(process)


def grown(path: Path, process: subprocess.Popen, size: int, seconds: float) -> None:
    """Waits until a file is larger than `size`, the processes end, or time is up."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if path.exists() and path.stat().st_size > size:
            return
        time.sleep(0.005)
