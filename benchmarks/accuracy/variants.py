"""Variants of one model: quantized, other resolutions, tiles, Core ML, bfloat16."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx import load
from fastvlm_mlx.convert import to_coreml, to_mlx
from fastvlm_mlx.convert.coreml import mlpackage
from fastvlm_mlx.convert.coreml.mil_evaluator import evaluate
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.errors import FastVLMError
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.files.json_file import read_json
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.processing.image_options import check_resolution
from fastvlm_mlx.processing.image_processor import unit_floats

SHIPPED = "shipped"
NAMES = (SHIPPED, "8-bit", "4-bit", "0.5x", "2x", "tiles", "coreml", "bfloat16")
TILES = (2, 2)


@dataclass(frozen=True)
class Variant:
    """A model folder and the options that it is asked with.

    Attributes:
        package: a Core ML package that replaces the encoder.
        fault: why the variant cannot be measured, or "".
    """

    name: str
    label: str
    folder: str
    resolution: int
    tiles: tuple[int, int] | None = None
    dtype: str | None = None
    package: str | None = None
    fault: str = ""


def make_variants(
    names: Sequence[str], folder: Path, scratch: Path, resolution: int | None = None
) -> list[Variant]:
    """The variants of the converted model in `folder`; new files go to `scratch`. One
    that cannot be made has the reason in `fault`."""
    config = ModelConfig.from_dict(read_json(folder / "config.json"))
    size = check_resolution(resolution or config.image_size)
    plain = Variant(SHIPPED, "as shipped", str(folder), size)
    made = []
    for name in names:
        try:
            made.append(_make_variant(name, plain, scratch))
        except FastVLMError as fault:
            made.append(replace(plain, name=name, label=name, fault=str(fault)))
    return made


def _make_variant(name: str, plain: Variant, scratch: Path) -> Variant:
    if name in ("8-bit", "4-bit"):
        out = scratch / name
        to_mlx.convert(plain.folder, out, q_bits=int(name[0]))
        return replace(plain, name=name, label=name, folder=str(out))
    if name in ("0.5x", "2x"):
        size = check_resolution(int(plain.resolution * float(name[:-1])))
        return replace(plain, name=name, label=f"{name}: {size} px", resolution=size)
    if name == "tiles":
        label = f"tiles {TILES[0]}x{TILES[1]}"
        return replace(plain, name=name, label=label, tiles=TILES)
    if name == "coreml":
        out = scratch / "encoder.mlpackage"
        options = CoreMLOptions(resolutions=(plain.resolution,))
        to_coreml.export(load(plain.folder, dtype="float32"), out, options)
        return replace(plain, name=name, label="Core ML float16", package=str(out))
    if name == "bfloat16":
        return replace(plain, name=name, label="bfloat16", dtype="bfloat16")
    return plain


@functools.cache
def load_variant(folder: str, dtype: str | None, package: str | None) -> FastVLM:
    """The model of a variant, loaded once in each process."""
    model = load(folder, dtype=dtype)
    if package is not None:
        model.encoder = _EvaluatedEncoder(Path(package))
    return model


class _EvaluatedEncoder:
    """A Core ML package without a projector, evaluated here, on any machine.

    The evaluator's `strict` mode rounds every intermediate to float16, also the sums
    inside an operation.
    """

    projected = False

    def __init__(self, package: Path):
        self._function = mlpackage.read(package).functions["main"]

    def __call__(self, pixels: Any) -> mx.array:
        (given,), (output,) = self._function.inputs, self._function.outputs
        # [N, R, R, 3] -> [N, 1, 3, R, R]
        images = unit_floats(np.asarray(pixels)).transpose(0, 3, 1, 2)[:, None]
        features = [
            evaluate(self._function, {given.name: image}, mode="strict")[output]
            for image in images
        ]
        return mx.array(np.concatenate(features))
