"""The most memory that a process had resident."""

import subprocess
import sys

import numpy as np

from fastvlm_mlx.peak_memory import peak_memory

SIZE = 300_000_000


def test_it_stays_after_the_memory_is_given_back():
    before = peak_memory()
    held = np.ones((peak_memory() or 0) + SIZE, np.uint8)
    del held
    after = peak_memory()
    assert before is not None and after is not None and after - before >= SIZE


def test_a_new_program_begins_with_its_own():
    held = np.ones(SIZE, np.uint8)
    waiting = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        found = peak_memory(waiting.pid)
        if sys.platform == "linux":
            assert found is not None and 0 < found < SIZE / 10 < len(held)
        else:  # only Linux tells it of others
            assert found is None
    finally:
        waiting.communicate()
    assert peak_memory(waiting.pid) is None


def test_outside_of_linux_a_process_knows_its_own(monkeypatch):
    monkeypatch.setattr("fastvlm_mlx.peak_memory._LINUX", False)
    assert (peak_memory() or 0) > 1000 and peak_memory(1) is None
