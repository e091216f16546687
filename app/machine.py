"""The machine and the versions that numbers were measured with."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def device_and_versions() -> dict[str, Any]:
    """The device MLX computes on, its BLAS, and the versions that matter."""
    import mlx.core as mx

    from fastvlm_mlx.cpu import openblas

    openblas.bind()  # As loading a model does.
    device = mx.default_device()
    name = mx.device_info(device).get("device_name", platform.machine())
    kind = "cpu" if device.type == mx.cpu else "gpu"
    system = f"{platform.system()} {platform.release()}"
    if sys.platform == "darwin":
        system = f"macOS {platform.mac_ver()[0]}"
    return {
        "device": f"{kind} ({name})",
        "blas": openblas.library_name(),
        "versions": {
            "fastvlm-mlx": version("fastvlm-mlx"),
            "mlx": version("mlx"),
            "mlx-lm": version("mlx-lm"),
            "python": platform.python_version(),
            "system": f"{system} {platform.machine()}",
        },
    }


def facts() -> dict[str, Any]:
    """`info`'s device and versions, with the chip, its cores and memory (bytes), the
    commit of a checkout, and how busy the machine is."""
    return {
        **device_and_versions(),
        "chip": _chip(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "commit": _commit(),
        "load": round(os.getloadavg()[0], 1),
    }


def line(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    versions = machine["versions"]
    commit = f", commit {machine['commit']}" if machine["commit"] else ""
    return (
        f"{machine['chip']}, {machine['cores']} cores, {machine['memory'] / 2**30:.0f}"
        f" GB, {versions['system']}; {machine['device'].split(' ')[0]},"
        f" BLAS {machine['blas']}; mlx {versions['mlx']}, mlx-lm {versions['mlx-lm']},"
        f" fastvlm-mlx {versions['fastvlm-mlx']}{commit}; load {machine['load']}"
    )


def energy() -> str:
    """Why no energy is given: macOS tells it only to root."""
    if sys.platform == "darwin":
        return (
            "needs root: run `sudo powermetrics --samplers cpu_power,gpu_power,"
            "ane_power -i 200` beside the benchmark"
        )
    return "only macOS tells it (powermetrics)"


def _chip() -> str:
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or "Apple silicon"
    try:
        for row in Path("/proc/cpuinfo").read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The short hash of the checkout this runs from, marked if it was changed."""
    parents = Path(__file__).resolve().parents
    folder = next((path for path in parents[:3] if (path / ".git").exists()), None)
    if folder is None:
        return None
    commit = _output("git", "-C", str(folder), "rev-parse", "--short", "HEAD")
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "-uno")
    return commit and commit + ("+changes" if changed else "")


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
