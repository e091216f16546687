"""Loads an `.aimodel` in a process of its own, for Apple's library may end it.

    python -m fastvlm_mlx.convert.coreai.probe PATH.aimodel

The reader of its programs does not return from every damaged or hostile file. It also
aborts, about once in some thousand times, on a sound one: what a signal ended is tried
once more.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from fastvlm_mlx.convert.coreai.asset import Asset
from fastvlm_mlx.coreai_runtime import CoreAIModel
from fastvlm_mlx.errors import CheckpointError

# Compiling the released encoder takes seconds.
TIMEOUT = 600.0


def probe(asset: Asset) -> None:
    """Checks that Core AI can load the asset and each of its functions.

    Raises:
        CheckpointError: it cannot, or ends the process, or takes ten minutes.
    """
    done = _load(asset.path)
    if done.returncode < 0:
        done = _load(asset.path)
    if done.returncode == 0:
        return
    if done.returncode < 0:
        reason = signal.Signals(-done.returncode).name
        what = f"Core AI ends with {reason} when it loads it"
    else:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["?"]
        what = f"Core AI cannot load it ({lines[-1][:160]})"
    raise CheckpointError(f"{asset.path}: {what}; export it again")


def _load(path: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", __name__, str(path)]
    try:
        return subprocess.run(command, capture_output=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as fault:
        raise CheckpointError(
            f"{path}: Core AI did not load it in {TIMEOUT:.0f} s; export it again"
        ) from fault


def main() -> None:
    with CoreAIModel(Path(sys.argv[1])) as model:
        for name in model.functions:
            model.describe(name)
    # Without Python's own end, in which threads of the library may still be running.
    os._exit(0)


if __name__ == "__main__":
    main()
