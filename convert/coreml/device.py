"""Judges a package with Core ML itself: agreement, latency and placement, per unit.

macOS only, and not yet run on one (docs/coreml.md).
"""

from dataclasses import dataclass

from fastvlm_mlx import coreml
from fastvlm_mlx.convert.coreml.check import Reference, least, psnr
from fastvlm_mlx.convert.coreml.mil_encoder import EMBEDDINGS
from fastvlm_mlx.convert.coreml.mlpackage import Package
from fastvlm_mlx.errors import OptionError


@dataclass(frozen=True)
class DeviceVerdict:
    """One compute-unit setting of this Mac; see `coreml.DeviceReport`."""

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
    """Runs the default function with Core ML itself, on every compute unit.

    Raises:
        OptionError: not on macOS, or a unit agrees less than is asked for.
    """
    function = package.functions[package.default_function]
    resolution = int(function.inputs[0].shape[2] or 0)
    pixels, answers = reference.answers(resolution, function.outputs[0] == EMBEDDINGS)
    verdicts = [
        DeviceVerdict(
            report.compute_units,
            psnr(answers[:1], report.features),
            report.median_ms,
            report.load_seconds,
            report.operations,
        )
        for report in coreml.measure(package.path, pixels[:1])
    ]
    for verdict in verdicts:
        if not verdict.psnr >= least(function):
            raise OptionError(
                f"{package.path}: {verdict.psnr:.1f} dB PSNR with --compute-units"
                f" {verdict.compute_units} is below {least(function):.0f} dB; use other"
                " units or --precision float32"
            )
    return verdicts
