"""Compares a stored encoder package with the MLX encoder on real images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fastvlm_mlx.convert.coreml import neural_engine
from fastvlm_mlx.convert.coreml.mil_evaluator import Ranges, evaluate
from fastvlm_mlx.convert.coreml.mlpackage import Function, Package
from fastvlm_mlx.convert.coreml.neural_engine import Finding
from fastvlm_mlx.convert.coreml.package_errors import package_errors
from fastvlm_mlx.convert.encoder_reference import (
    MAX_RESOLUTION,
    REQUIRED_PSNR,
    REQUIRED_PSNR_COMPRESSED,
    Reference,
    psnr,
)
from fastvlm_mlx.convert.encoder_walk import EMBEDDINGS
from fastvlm_mlx.errors import CheckpointError, OptionError

MAX_FLOAT16 = 65504.0
# Other images may reach larger values than those compared.
HEADROOM = 2


@dataclass(frozen=True)
class Verdict:
    """The comparison of one function of a package with the MLX encoder.

    Attributes:
        function: its name.
        resolution: pixels a side.
        operations: the number of operations that run.
        required_psnr: in dB, to pass.
        psnr: of the worst image, in dB.
        strict_psnr: the same with every intermediate rounded to float16, if measured.
        largest: (operation, largest magnitude in float32), largest first.
        warnings: values that float16 cannot hold, or by less than `HEADROOM`.
        findings: what is known to leave the Neural Engine, or to use it poorly.
    """

    function: str
    resolution: int
    operations: int
    required_psnr: float
    psnr: float
    strict_psnr: float | None
    largest: tuple[tuple[str, float], ...]
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        # Comparisons with NaN are false, so NaN fails.
        passed = self.psnr >= self.required_psnr
        if self.strict_psnr is not None:
            passed = passed and self.strict_psnr >= self.required_psnr
        return passed

    def __str__(self) -> str:
        strict = "" if self.strict_psnr is None else f" (strict {self.strict_psnr:.1f})"
        name, most = self.largest[0]
        return (
            f"{self.function} {self.resolution} px: {self.psnr:.1f} dB PSNR{strict},"
            f" {self.operations} operations, largest value {most:.4g} ({name})"
        )


def judge(
    package: Package, reference: Reference, *, strict: bool = False
) -> list[Verdict]:
    """Evaluates every function of `package` and compares it with `reference`.

    Args:
        strict: also with every intermediate rounded to float16.
    Raises:
        CheckpointError: the package is not an image encoder, or of another model.
    """
    with package_errors(package.path):
        return [
            _judge(name or "main", function, package, reference, strict)
            for name, function in package.functions.items()
        ]


def _judge(
    name: str,
    function: Function,
    package: Package,
    reference: Reference,
    strict: bool,
) -> Verdict:
    shape = function.inputs[0].shape
    if len(shape) != 4 or shape[1] != 3 or None in shape or shape[2] != shape[3]:
        raise CheckpointError(
            f"{package.path}: takes {function.inputs[0].name} {shape}, not images"
            " of one size (1, 3, R, R)"
        )
    resolution = int(shape[2] or 0)
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise CheckpointError(
            f"{package.path}: takes images of {resolution} px, 1 to"
            f" {MAX_RESOLUTION} are possible; export it again"
        )
    output = function.outputs[0]
    pixels, expected = reference.outputs(resolution, output == EMBEDDINGS)
    ranges = Ranges()
    figures = {
        mode: min(
            _compare(function, image, features, package, mode, ranges)
            for image, features in zip(pixels, expected, strict=True)
        )
        for mode in (("typed", "strict") if strict else ("typed",))
    }
    largest = sorted(
        ranges.largest.items(), key=lambda item: (item[1] == item[1], -item[1])
    )
    return Verdict(
        name,
        resolution,
        sum(1 for _ in function.computing()),
        required_psnr(function),
        figures["typed"],
        figures.get("strict"),
        tuple(largest),
        tuple(_range_warnings(function, ranges)),
        tuple(neural_engine.check(function)),
    )


def _range_warnings(function: Function, ranges: Ranges) -> Iterator[str]:
    half = {
        output.name
        for operation in function.operations
        for output in operation.outputs
        if output.dtype == "float16"
    }
    for name, largest in ranges.largest.items():
        # `not <=`, so that NaN warns.
        if name in half and not largest <= MAX_FLOAT16 / HEADROOM:
            yield (
                f"{name} reaches {largest:.3g} and float16 ends at {MAX_FLOAT16:.0f};"
                " use --precision float32"
            )
    for name, total in ranges.squares.items():
        if name in half and not total <= MAX_FLOAT16 / HEADROOM:
            yield (
                f"{name} adds up squares to {total:.3g}, which a float16 sum cannot"
                " hold; use a larger --norm-prescale"
            )


def _compare(
    function: Function,
    pixels: np.ndarray,
    expected: np.ndarray,
    package: Package,
    mode: str,
    ranges: Ranges,
) -> float:
    # [R, R, 3] -> [1, 3, R, R]; the pixels of a pixel buffer are bytes
    images = pixels.transpose(2, 0, 1)[None]
    images = np.rint(images * 255) if package.image_input else images
    inputs = {function.inputs[0].name: images}
    recorded = ranges if mode == "typed" else None
    out = evaluate(function, inputs, mode=mode, ranges=recorded)[function.outputs[0]]
    if out.shape[1:] != expected.shape:
        raise CheckpointError(
            f"{package.path}: gives {out.shape[1:]} where the model gives"
            f" {expected.shape}; they are of different models"
        )
    return psnr(expected, out[0])


def required_psnr(function: Function) -> float:
    """The PSNR that `function` must reach, in dB."""
    compressed = any(op.type.startswith("constexpr_") for op in function.operations)
    return REQUIRED_PSNR_COMPRESSED if compressed else REQUIRED_PSNR


def require(verdicts: Sequence[Verdict], what: str, consequence: str) -> None:
    """Checks that every comparison passed.

    Args:
        what: the start of the message, such as the package's path.
        consequence: its end.
    Raises:
        OptionError: with the figure of the first that failed.
    """
    for verdict in verdicts:
        if not verdict.passed:
            figure = verdict.psnr
            if (
                verdict.strict_psnr is not None
                and verdict.psnr >= verdict.required_psnr
            ):
                figure = verdict.strict_psnr
            raise OptionError(
                f"{what}: {figure:.1f} dB PSNR at {verdict.resolution} px is below"
                f" {verdict.required_psnr:.0f} dB; {consequence}"
            )
