"""`fastvlm-mlx train` under `mlx.launch`: one process writes and talks."""

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from PIL import Image

from fastvlm_mlx.adapters.files import read_adapter


def test_two_processes_write_one_adapter(tiny: str, tmp_path: Path):
    launcher = Path(sys.executable).with_name("mlx.launch")
    if not launcher.exists() or not mx.distributed.is_available():
        pytest.skip("mlx.launch cannot run here")
    for number in range(4):
        Image.new("RGB", (64, 64), (60 * number, 20, 20)).save(
            tmp_path / f"{number}.png"
        )
        (tmp_path / f"{number}.txt").write_text("red")
    program = Path(sys.executable).with_name("fastvlm-mlx")
    # mlx.launch reads from an input at its end without a pause.
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [
                *(launcher, "-n", "2", "--", program, "train", tiny, tmp_path),
                *("-o", tmp_path / "out", "--epochs", "1", "--rank", "2"),
            ],
            stdin=reading,
            capture_output=True,
            text=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            timeout=300,
        )
    finally:
        os.close(reading)
        os.close(writing)
    said = done.stdout + done.stderr
    assert said.count("3 to learn from, 1 held out") == 1, said
    assert said.count("adapter: ") == 1
    assert "Traceback" not in said
    assert read_adapter(tmp_path / "out").spec.rank == 2
    assert not (tmp_path / "out.training").exists()
