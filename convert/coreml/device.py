"""Compares a package with the MLX encoder on every compute-unit setting of a Mac.

The verdicts are advice: Core ML runs in processes of their own, and whatever it says
of a package, a Mac of another kind may run it well. The calls were checked against
coremltools 9.0 and tested with a stand-in; nothing ran on a Mac (docs/coreml.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastvlm_mlx.convert.coreml.mlpackage import Package
from fastvlm_mlx.convert.coreml.verify import required_psnr
from fastvlm_mlx.convert.encoder_reference import Reference, psnr
from fastvlm_mlx.convert.encoder_walk import EMBEDDINGS
from fastvlm_mlx.coreml_encoder import COMPUTE_UNITS, require_macos
from fastvlm_mlx.coreml_probe import probe
from fastvlm_mlx.errors import OptionError


@dataclass(frozen=True)
class DeviceVerdict:
    """The comparison of a package with the MLX encoder on one compute-unit setting.

    Attributes:
        compute_units: a name of `COMPUTE_UNITS`.
        problem: why the setting cannot be used; empty if it can.
        psnr: in dB.
        median_ms: milliseconds of one image, warm.
        load_seconds: of loading and the first image.
        operations: how many operations Core ML places on each device.
    """

    compute_units: str
    problem: str = ""
    psnr: float = float("nan")
    median_ms: float = float("nan")
    load_seconds: float = float("nan")
    operations: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.problem:
            return f"{self.compute_units}: {self.problem}"
        placed = ", ".join(f"{n} on {unit}" for unit, n in self.operations.items())
        return (
            f"{self.compute_units}: {self.psnr:.1f} dB PSNR, {self.median_ms:.1f} ms"
            f" (first {self.load_seconds:.1f} s), operations {placed or 'unknown'}"
        )


def judge_on_device(package: Package, reference: Reference) -> list[DeviceVerdict]:
    """Runs the default function with Core ML on every compute-unit setting.

    Raises:
        OptionError: not on macOS.
    """
    require_macos()
    function = package.functions[package.default_function]
    resolution = int(function.inputs[0].shape[2] or 0)
    pixels, expected = reference.outputs(resolution, function.outputs[0] == EMBEDDINGS)
    required = required_psnr(function)
    verdicts = []
    for units in COMPUTE_UNITS:
        try:
            found = probe(package.path, units, pixels[:1])
        except OptionError as fault:
            verdicts.append(DeviceVerdict(units, str(fault)))
            continue
        agreement = psnr(expected[:1], found.features)
        problem = ""
        if not agreement >= required:  # written so that NaN fails
            problem = (
                f"{agreement:.1f} dB PSNR is below {required:.0f} dB; use other units"
                " or --precision float32"
            )
        measured = (found.median_ms, found.load_seconds, found.operations)
        verdicts.append(DeviceVerdict(units, problem, agreement, *measured))
    return verdicts


def require_on_device(package: Package, verdicts: Sequence[DeviceVerdict]) -> None:
    """Raises OptionError if a setting of compute units has a problem."""
    for verdict in verdicts:
        if verdict.problem:
            raise OptionError(f"{package.path}: {verdict}")
