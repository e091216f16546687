"""Compares a stored encoder package with the MLX encoder on real images.

The figure is the peak signal-to-noise ratio of apple/ml-stable-diffusion's export gate:
20 log10(largest |reference| / root mean square error), in dB.
"""

import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.convert.coreml import neural_engine
from fastvlm_mlx.convert.coreml.mil_encoder import EMBEDDINGS
from fastvlm_mlx.convert.coreml.mil_evaluator import Ranges, evaluate
from fastvlm_mlx.convert.coreml.mlpackage import Function, Package
from fastvlm_mlx.convert.coreml.neural_engine import Finding
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_processor import to_pixels

# The least that is written, in dB; ml-stable-diffusion's and whisperkittools' 35.
REQUIRED_PSNR = 35.0
REQUIRED_PSNR_COMPRESSED = 25.0

MAX_FLOAT16 = 65504.0
# Another image may go further than the ones that were looked at.
HEADROOM = 2

# Evaluating 1024 px takes some ten seconds: more images only where they are small.
PIXEL_BUDGET = 2 * 512 * 512


@dataclass(frozen=True)
class Verdict:
    """How one function of a package did.

    `psnr` is the worst image's, in dB; `strict_psnr` the same with every intermediate
    rounded to float16; `largest` the biggest magnitudes in float32, by operation;
    `warnings` names those that float16 cannot hold, or only just.
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
        figures = [self.psnr] + [self.strict_psnr] * (self.strict_psnr is not None)
        # Written so that NaN fails.
        return all(figure is not None and figure >= self.least for figure in figures)

    def __str__(self) -> str:
        strict = "" if self.strict_psnr is None else f" (strict {self.strict_psnr:.1f})"
        name, most = self.largest[0]
        return (
            f"{self.function} {self.resolution} px: {self.psnr:.1f} dB PSNR{strict},"
            f" {self.operations} operations, largest value {most:.4g} ({name})"
        )


def psnr(reference: np.ndarray, given: np.ndarray) -> float:
    """In dB; infinite for equal arrays, NaN if either is not finite."""
    error = np.mean((reference.astype(np.float64) - given) ** 2)
    if error == 0:
        return float("inf")
    return float(20 * np.log10(np.abs(reference).max() / np.sqrt(error)))


def default_images() -> list[Path]:
    """Two photographs in the public domain that ship with the package."""
    folder = importlib.resources.files("fastvlm_mlx.convert") / "images"
    return sorted(Path(str(file)) for file in folder.iterdir())


class Reference:
    """The MLX encoder's answers in float32, computed once per resolution."""

    def __init__(self, model: FastVLMModel, images: Sequence[Any] = ()):
        if model.vision_tower is None:
            raise CheckpointError("this model has no vision encoder to compare with")
        self.model = model
        self.encoder = model.vision_tower
        self.images = [open_image(image) for image in images or default_images()]
        self._kept: dict[tuple[int, bool], tuple[np.ndarray, np.ndarray]] = {}

    def pixels(self, resolution: int) -> np.ndarray:
        """(N, R, R, 3) floats in 0..1; fewer images where they are large."""
        count = max(1, PIXEL_BUDGET // resolution**2)
        return to_pixels(
            self.images[:count], size=resolution, fit=self.model.config.fit
        )

    def answers(
        self, resolution: int, projected: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The pixels (N, R, R, 3) and the features or embeddings (N, tokens, width)."""
        key = (resolution, projected)
        if key not in self._kept:
            pixels = self.pixels(resolution)
            features = []
            for each in pixels:  # one by one: bounded memory
                out = self.encoder(mx.array(each[None]))
                if projected and self.model.projector is not None:
                    out = self.model.projector(out)
                features.append(np.array(out.astype(mx.float32)))
            mx.clear_cache()
            self._kept[key] = pixels, np.concatenate(features)
        return self._kept[key]


def judge(
    package: Package, reference: Reference, *, strict: bool = False
) -> list[Verdict]:
    """Evaluates every function of `package` against `reference`.

    Raises:
        CheckpointError: the package is no encoder of ours or Apple's, or of another
            model.
    """
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
    output = function.outputs[0]
    pixels, answers = reference.answers(resolution, output == EMBEDDINGS)
    ranges = Ranges()
    figures = {
        mode: min(
            _compare(function, one, answer, package, mode, ranges)
            for one, answer in zip(pixels, answers, strict=True)
        )
        for mode in ("typed", "strict")[: 1 + strict]
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
        # Written so that NaN warns.
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
    answer: np.ndarray,
    package: Package,
    mode: str,
    ranges: Ranges,
) -> float:
    # [R, R, 3] -> [1, 3, R, R]; a pixel buffer holds whole bytes
    images = pixels.transpose(2, 0, 1)[None]
    images = np.rint(images * 255) if package.image_input else images
    given = {function.inputs[0].name: images}
    seen = ranges if mode == "typed" else None
    out = evaluate(function, given, mode=mode, ranges=seen)[function.outputs[0]]
    if out.shape[1:] != answer.shape:
        raise CheckpointError(
            f"{package.path}: gives {out.shape[1:]} where the model gives"
            f" {answer.shape}; they are of different models"
        )
    return psnr(answer, out[0])


def required_psnr(function: Function) -> float:
    """The gate that `function` must pass, in dB."""
    compressed = any(op.type.startswith("constexpr_") for op in function.operations)
    return REQUIRED_PSNR_COMPRESSED if compressed else REQUIRED_PSNR


def require(verdicts: Sequence[Verdict], what: str, consequence: str) -> None:
    """Raises OptionError, with the figure, for the first verdict that failed."""
    for verdict in verdicts:
        if not verdict.passed:
            figure = verdict.psnr
            if verdict.strict_psnr is not None and verdict.psnr >= verdict.least:
                figure = verdict.strict_psnr
            raise OptionError(
                f"{what}: {figure:.1f} dB PSNR at {verdict.resolution} px is below"
                f" {verdict.least:.0f} dB; {consequence}"
            )
