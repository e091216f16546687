"""Compares a stored encoder package with the MLX encoder on real images.

The figure is the peak signal-to-noise ratio of apple/ml-stable-diffusion's export gate:
20 log10(largest |reference| / root mean square error), in dB.
"""

import importlib.resources
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from fastvlm_mlx.convert.coreml import neural_engine
from fastvlm_mlx.convert.coreml.mil_encoder import EMBEDDINGS
from fastvlm_mlx.convert.coreml.mil_evaluator import Ranges, evaluate
from fastvlm_mlx.convert.coreml.mlpackage import Function, Package
from fastvlm_mlx.convert.coreml.neural_engine import Finding
from fastvlm_mlx.convert.coreml.package_errors import package_errors
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.image_file import Source, open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess, unit_floats

# In dB; an export below it is not written. ml-stable-diffusion and whisperkittools
# require 35.
REQUIRED_PSNR = 35.0
REQUIRED_PSNR_COMPRESSED = 25.0

MAX_FLOAT16 = 65504.0
# Other images may reach larger values than those compared.
HEADROOM = 2

# Pixels of all images compared at one resolution: evaluating one of 1024 px takes
# some ten seconds.
PIXEL_BUDGET = 2 * 512 * 512
MAX_RESOLUTION = 4096  # pixels a side; more is a damaged package


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


def psnr(reference: np.ndarray, actual: np.ndarray) -> float:
    """The peak signal-to-noise ratio in dB; infinite for equal arrays, NaN if either
    has a value that is not finite."""
    error = np.mean((reference.astype(np.float64) - actual) ** 2)
    if error == 0:
        return float("inf")
    return float(20 * np.log10(np.abs(reference).max() / np.sqrt(error)))


def default_images() -> list[Path]:
    """Two public-domain photographs that are part of this package."""
    folder = importlib.resources.files("fastvlm_mlx.convert") / "images"
    return sorted(Path(str(file)) for file in folder.iterdir())


class Reference:
    """The outputs of the MLX encoder in float32, computed once per resolution.

    Args:
        model: with an encoder, loaded in float32.
        images: to encode; two photographs of ours by default.
    Raises:
        CheckpointError: the model has no encoder.
        ImageError: an image cannot be opened.
    """

    def __init__(self, model: FastVLMModel, images: Sequence[Source] = ()):
        if model.vision_tower is None:
            raise CheckpointError("this model has no vision encoder to compare with")
        self.model = model
        self.encoder = model.vision_tower
        self.images = [open_image(image) for image in images or default_images()]
        self._outputs: dict[tuple[int, bool], tuple[np.ndarray, np.ndarray]] = {}

    def pixels(self, resolution: int) -> np.ndarray:
        """The images as (N, R, R, 3) floats in 0..1; N shrinks as R grows."""
        count = max(1, PIXEL_BUDGET // resolution**2)
        options = ImageOptions.of(self.model.config, resolution=resolution)
        images = [preprocess(image, options) for image in self.images[:count]]
        return unit_floats(np.concatenate(images))

    def outputs(
        self, resolution: int, projected: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The pixels (N, R, R, 3), and their features or, if `projected`, embeddings
        (N, tokens, width)."""
        key = (resolution, projected)
        if key not in self._outputs:
            pixels = self.pixels(resolution)
            features = []
            for image in pixels:  # one at a time bounds memory
                out = self.encoder(mx.array(image[None]))
                if projected and self.model.projector is not None:
                    out = self.model.projector(out)
                features.append(np.array(out.astype(mx.float32)))
            mx.clear_cache()
            self._outputs[key] = pixels, np.concatenate(features)
        return self._outputs[key]


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
