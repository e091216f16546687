"""Times a Core ML package in a process of its own, which may be killed or hang.

Where the Neural Engine's compiler refuses a program, the first prediction can end the
process with a signal that nothing catches (coremltools issue 2758), and its first
compilation takes from seconds to minutes. `probe` survives both.
"""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastvlm_mlx.coreml_encoder import CoreMLEncoder
from fastvlm_mlx.errors import FastVLMError, OptionError, quoted

SECONDS = 120.0  # after which a probe is ended
COMMAND = (sys.executable, "-m", "fastvlm_mlx.coreml_probe")


@dataclass(frozen=True)
class Probe:
    """The measurements of one package with one setting of compute units.

    Attributes:
        load_seconds: of loading it and of the first image.
        median_ms: milliseconds of one image, warm.
        operations: how many operations Core ML places on each device; empty where it
            does not say, as before macOS 14.4.
        features: the output for the image, (1, tokens, width).
    """

    load_seconds: float
    median_ms: float
    operations: dict[str, int]
    features: np.ndarray


def probe(
    package: Path | str,
    compute_units: str,
    pixels: np.ndarray,
    *,
    runs: int = 10,
    seconds: float = SECONDS,
) -> Probe:
    """Encodes one image with `package` in a child process, several times.

    Args:
        package: an `.mlpackage`.
        compute_units: a name of `COMPUTE_UNITS`.
        pixels: (1, R, R, 3), floats in 0..1.
        runs: the median is of this many, after the first.
        seconds: when the child is ended.
    Raises:
        OptionError: Core ML refused the package, took too long, or ended the child.
    """
    name = f"{Path(package).name} with --compute-units {compute_units}"
    with tempfile.TemporaryDirectory() as folder:
        image, features = Path(folder, "pixels.npy"), Path(folder, "features.npy")
        np.save(image, np.asarray(pixels, np.float32))
        arguments = [package, compute_units, image, features, runs]
        try:
            child = subprocess.run(
                [*COMMAND, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise OptionError(
                f"{name}: Core ML was not done after {seconds:.0f} s"
            ) from None
        if child.returncode < 0:
            ended = signal.Signals(-child.returncode).name
            raise OptionError(f"{name}: Core ML ended the process ({ended})")
        if child.returncode:
            said = child.stderr.strip().splitlines() or ["no reason given"]
            raise OptionError(f"{name}: {said[-1].removeprefix('error: ')}")
        found = json.loads(child.stdout.splitlines()[-1])
        return Probe(**found, features=np.load(features))


def run(package: Path, compute_units: str, pixels: np.ndarray, runs: int) -> Probe:
    """What the child does: loads the package and encodes `pixels`."""
    start = time.perf_counter()
    encoder = CoreMLEncoder(package, compute_units)
    features = np.array(encoder(pixels))
    loaded = time.perf_counter() - start
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        encoder(pixels)
        times.append(1e3 * (time.perf_counter() - start))
    operations = _operations(encoder, encoder.functions[pixels.shape[1]] or "main")
    return Probe(loaded, statistics.median(times), operations, features)


def _operations(encoder: CoreMLEncoder, function: str) -> dict[str, int]:
    """The number of operations that Core ML prefers to run on each device."""
    from coremltools.models.compute_plan import MLComputePlan

    try:
        plan = MLComputePlan.load_from_path(
            path=str(encoder.compiled), compute_units=encoder.units
        )
    except Exception:  # before macOS 14.4 there is no plan
        return {}
    program = plan.model_structure.program
    counts: Counter[str] = Counter()
    for operation in program.functions[function].block.operations if program else ():
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is not None:  # constants have no device
            kind = type(usage.preferred_compute_device).__name__
            counts[kind.removeprefix("ML").removesuffix("ComputeDevice")] += 1
    return dict(counts)


def main(arguments: list[str]) -> None:
    """PACKAGE UNITS PIXELS.npy FEATURES.npy RUNS: prints one JSON object."""
    package, units, pixels, features, runs = arguments
    try:
        found = run(Path(package), units, np.load(pixels), int(runs))
    except FastVLMError as fault:
        sys.exit(f"error: {fault}")
    except Exception as fault:
        sys.exit(f"error: {quoted(fault)}")
    np.save(features, found.features)
    timings = {
        "load_seconds": found.load_seconds,
        "median_ms": found.median_ms,
        "operations": found.operations,
    }
    print(json.dumps(timings))


if __name__ == "__main__":
    main(sys.argv[1:])
