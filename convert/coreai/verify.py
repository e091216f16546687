"""Judges an `.aimodel` by Apple's own runtime: its outputs beside those of MLX."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastvlm_mlx.convert.coreai.asset import Asset
from fastvlm_mlx.convert.coreai.programs import IDS, ROWS
from fastvlm_mlx.convert.encoder_reference import (
    MAX_RESOLUTION,
    REQUIRED_PSNR,
    REQUIRED_PSNR_COMPRESSED,
    Reference,
    psnr,
)
from fastvlm_mlx.convert.encoder_walk import EMBEDDINGS, FEATURES
from fastvlm_mlx.coreai_runtime import CoreAIModel
from fastvlm_mlx.errors import CheckpointError, FastVLMError, OptionError, quoted

# Rows of the table of embeddings that are looked up, spread over all of it.
ROWS_COMPARED = 256


@dataclass(frozen=True)
class Verdict:
    """The comparison of one function of an asset with MLX in float32.

    Attributes:
        function: the asset's name and the function's.
        what: what went in, such as `512 px`.
        psnr: of the worst input, in dB.
        required_psnr: in dB, to pass.
        seconds: that one call took in the runtime, after the first if there are more.
    """

    function: str
    what: str
    psnr: float
    required_psnr: float
    seconds: float

    @property
    def passed(self) -> bool:
        return self.psnr >= self.required_psnr  # false for NaN

    def __str__(self) -> str:
        return (
            f"{self.function} {self.what}: {self.psnr:.1f} dB PSNR in Core AI,"
            f" {self.seconds:.2f} s"
        )


def judge(asset: Asset, reference: Reference) -> list[Verdict]:
    """Runs every function of an encoder's asset and compares it with `reference`.

    Raises:
        CheckpointError: the asset is no image encoder, or of another model.
        OptionError: coreai-core is missing or of another version.
    """
    required = REQUIRED_PSNR_COMPRESSED if asset.compressed else REQUIRED_PSNR
    with asset_errors(asset.path), CoreAIModel(asset.path) as model:
        return [
            _judge(model, name, required, reference, asset.path)
            for name in model.functions
        ]


def _judge(
    model: CoreAIModel, name: str, required: float, reference: Reference, path: Path
) -> Verdict:
    described = model.describe(name)
    inputs, outputs = list(described.input_names), list(described.output_names)
    shape = tuple(described.input_descriptor(inputs[0]).shape if inputs else [])
    square = len(shape) == 4 and shape[:2] == (1, 3) and shape[2] == shape[3]
    if len(inputs) != 1 or not square or outputs not in ([FEATURES], [EMBEDDINGS]):
        raise CheckpointError(
            f"{path}: its function {name} takes {', '.join(inputs) or 'nothing'}"
            f" {shape} and gives {', '.join(outputs) or 'nothing'}, not features of"
            " images of one size (1, 3, R, R)"
        )
    resolution = shape[-1]
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise CheckpointError(
            f"{path}: takes images of {resolution} px, 1 to {MAX_RESOLUTION} are"
            " possible; export it again"
        )
    pixels, expected = reference.outputs(resolution, outputs == [EMBEDDINGS])
    figures = []
    seconds = 0.0
    for image, features in zip(pixels, expected, strict=True):
        # [R, R, 3] -> [1, 3, R, R]
        given = {inputs[0]: image.transpose(2, 0, 1)[None]}
        start = time.perf_counter()
        found = model.run(name, given)[outputs[0]]
        seconds = time.perf_counter() - start
        if found.shape[1:] != features.shape:
            raise CheckpointError(
                f"{path}: gives {found.shape[1:]} where the model gives"
                f" {features.shape}; they are of different models"
            )
        figures.append(psnr(features, found[0].astype(np.float32)))
    # min() may drop a NaN, which must fail.
    worst = float(np.min(figures))
    return Verdict(f"{path.stem} {name}", f"{resolution} px", worst, required, seconds)


def judge_embed(asset: Asset, table: np.ndarray) -> Verdict:
    """Looks rows up in Core AI and compares them with `table` (vocabulary, hidden).

    Raises:
        CheckpointError: the asset is no table of embeddings of this size.
    """
    count = min(ROWS_COMPARED, len(table))
    ids = np.linspace(0, len(table) - 1, count).round().astype(np.int32)
    with asset_errors(asset.path), CoreAIModel(asset.path) as model:
        start = time.perf_counter()
        found = model.run("main", {IDS: ids[None]})[ROWS]
        seconds = time.perf_counter() - start
    figure = psnr(table[ids].astype(np.float32), found[0].astype(np.float32))
    name = f"{asset.path.stem} main"
    return Verdict(name, f"{count} rows", figure, REQUIRED_PSNR, seconds)


def require(verdicts: Sequence[Verdict], what: str, consequence: str) -> None:
    """Checks that every comparison passed.

    Raises:
        OptionError: with the figure of the first that failed.
    """
    for verdict in verdicts:
        if not verdict.passed:
            raise OptionError(
                f"{what}: {verdict.psnr:.1f} dB PSNR of {verdict.function} at"
                f" {verdict.what} is below {verdict.required_psnr:.0f} dB;"
                f" {consequence}"
            )


@contextmanager
def asset_errors(path: Path) -> Iterator[None]:
    """Turns what Core AI raises for the asset at `path` into one line.

    Raises:
        CheckpointError: Core AI cannot load or run it.
    """
    try:
        yield
    except FastVLMError:
        raise
    except OSError:
        raise  # a full disk, which the caller names
    except Exception as fault:
        raise CheckpointError(
            f"{path}: Core AI cannot run it ({quoted(fault)}); export it again"
        ) from fault
