"""Runs the tests in the form that a Mac's GPU has, on any machine.

    python -m tests.mac.pretend float16 tests/conversation

A copy of the repository is changed so that its default device calls itself a GPU:
16-bit weights, quantized layers kept, the GPU's operations, no CPU kernels, no /proc
and no `os.sched_*`. MLX computes all of it on the CPU, without `mx.compile`, which
would call g++. Conversions and references stay on the CPU, as on a Mac.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.copy_tree import copy_tree

DTYPES = ("bfloat16", "float16")

# Added to the end of these files: later definitions win.
CHANGES = {
    "fastvlm_mlx/device.py": """

# ---- a pretended GPU, see tests/mac/pretend.py
import pathlib

_cpu_blocks = 0
for _name in [name for name in dir(os) if name.startswith("sched_")]:
    delattr(os, _name)
_read_text = pathlib.Path.read_text


def _read_text_of_a_mac(path, *args, **kwargs):
    if str(path) == "/proc/cpuinfo":
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return _read_text(path, *args, **kwargs)


pathlib.Path.read_text = _read_text_of_a_mac


def on_cpu():
    default()
    return _cpu_blocks > 0


def on_gpu():
    default()
    return _cpu_blocks == 0


def without_bfloat16():
    return on_gpu() and "{dtype}" == "float16"


def device_dtype(stored=()):
    return mx.float32 if on_cpu() else mx.{dtype}


@contextmanager
def cpu_only():
    global _cpu_blocks
    _cpu_blocks += 1
    try:
        yield
    finally:
        _cpu_blocks -= 1
""",
    "fastvlm_mlx/cpu/kernels.py": """

def usable(*arrays):
    return False


def library():
    return None
""",
    "fastvlm_mlx/cpu/openblas.py": """

def sgemm_addresses():
    return None
""",
}

# Tests of what is replaced above, and of the pages, which no device changes.
ABOUT_THIS = ("tests/cpu", "tests/test_device.py", "tests/mac", "tests/app/web")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mac.pretend")
    parser.add_argument("dtype", choices=DTYPES)
    parser.add_argument("pytest", nargs=argparse.REMAINDER, help="arguments of pytest")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(Path(folder))
        for name, added in CHANGES.items():
            with Path(folder, name).open("a") as file:
                file.write(added.replace("{dtype}", args.dtype))
        environment = {
            **os.environ,
            "PYTHONPATH": folder,
            "MLX_DISABLE_COMPILE": "1",
            "FASTVLM_TEST_AS": args.dtype,
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
        command += [f"--ignore={test}" for test in ABOUT_THIS]
        return subprocess.run(
            [*command, *args.pytest], cwd=folder, env=environment
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
