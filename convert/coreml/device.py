"""Runs a package with Core ML: agreement, latency and placement per compute unit.

macOS only. The calls were checked against the signatures of coremltools 9.0 and tested
with a stub; nothing ran on a Mac (docs/coreml.md).
"""

import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastvlm_mlx.convert.coreml.mil_encoder import EMBEDDINGS
from fastvlm_mlx.convert.coreml.mlpackage import Package
from fastvlm_mlx.convert.coreml.verify import Reference, psnr, required_psnr
from fastvlm_mlx.coreml_encoder import (
    COMPUTE_UNITS,
    CoreMLEncoder,
    import_coremltools,
    require_macos,
)
from fastvlm_mlx.errors import OptionError


@dataclass(frozen=True)
class DeviceVerdict:
    """The comparison of a package with the MLX encoder on one compute-unit setting.

    Attributes:
        compute_units: a name of `COMPUTE_UNITS`.
        psnr: in dB.
        median_ms: milliseconds of one image, warm.
        load_seconds: of loading and the first image.
        operations: how many operations Core ML places on each device.
    """

    compute_units: str
    psnr: float
    median_ms: float
    load_seconds: float
    operations: dict[str, int]

    def __str__(self) -> str:
        placed = ", ".join(f"{n} on {unit}" for unit, n in self.operations.items())
        return (
            f"{self.compute_units}: {self.psnr:.1f} dB PSNR, {self.median_ms:.1f} ms"
            f" (first {self.load_seconds:.1f} s), operations {placed or 'unknown'}"
        )


def judge_on_device(package: Package, reference: Reference) -> list[DeviceVerdict]:
    """Runs the default function with Core ML on every compute-unit setting.

    Raises:
        OptionError: not on macOS, or the PSNR on one setting is too low.
    """
    function = package.functions[package.default_function]
    resolution = int(function.inputs[0].shape[2] or 0)
    pixels, expected = reference.outputs(resolution, function.outputs[0] == EMBEDDINGS)
    verdicts = [
        DeviceVerdict(
            report.compute_units,
            psnr(expected[:1], report.features),
            report.median_ms,
            report.load_seconds,
            report.operations,
        )
        for report in measure(package.path, pixels[:1])
    ]
    required = required_psnr(function)
    for verdict in verdicts:
        if not verdict.psnr >= required:  # written so that NaN fails
            raise OptionError(
                f"{package.path}: {verdict.psnr:.1f} dB PSNR with --compute-units"
                f" {verdict.compute_units} is below {required:.0f} dB; use other"
                " units or --precision float32"
            )
    return verdicts


@dataclass(frozen=True)
class DeviceReport:
    """The measurements of one compute-unit setting; fields as in `DeviceVerdict`.

    `features` is the output for the image that was timed.
    """

    compute_units: str
    load_seconds: float
    median_ms: float
    operations: dict[str, int]
    features: np.ndarray


def measure(
    package: Path | str, pixels: np.ndarray, *, runs: int = 10
) -> list[DeviceReport]:
    """Times one image on each compute-unit setting and counts operations by device.

    Args:
        package: an `.mlpackage`.
        pixels: (1, R, R, 3), floats in 0..1.
        runs: the median is of this many, after the first.
    Raises:
        OptionError: not on macOS, or coremltools is not installed.
    """
    require_macos()
    tools = import_coremltools()
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / f"{Path(package).stem}.mlmodelc"
        tools.models.utils.compile_model(str(package), str(model))
        for units in COMPUTE_UNITS:
            start = time.perf_counter()
            encoder = CoreMLEncoder(package, units, compiled_model=model)
            features = np.array(encoder(pixels))
            loaded = time.perf_counter() - start
            times = []
            for _ in range(runs):
                start = time.perf_counter()
                encoder(pixels)
                times.append(1e3 * (time.perf_counter() - start))
            devices = _devices(encoder, encoder.functions[pixels.shape[1]] or "main")
            median = statistics.median(times)
            reports.append(DeviceReport(units, loaded, median, devices, features))
    return reports


def _devices(encoder: CoreMLEncoder, function: str) -> dict[str, int]:
    """The number of operations that Core ML prefers to run on each device."""
    from coremltools.models.compute_plan import MLComputePlan

    plan = MLComputePlan.load_from_path(
        path=str(encoder.compiled), compute_units=encoder.units
    )
    program = plan.model_structure.program
    counts: Counter[str] = Counter()
    for operation in program.functions[function].block.operations if program else ():
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is not None:  # constants have no device
            kind = type(usage.preferred_compute_device).__name__
            counts[kind.removeprefix("ML").removesuffix("ComputeDevice")] += 1
    return dict(counts)
