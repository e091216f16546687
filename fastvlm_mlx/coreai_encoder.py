"""Encodes images with an `.aimodel` in place of the MLX encoder, on macOS 27 only.

The calls are those that are tested on Linux, where Apple's runtime interprets the same
file; on macOS 27 the system's framework runs it. That was never run.
"""

import platform
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.coreai_runtime import CoreAIModel
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.processing.image_processor import unit_floats

MACOS = 27


def require_macos() -> None:
    """Checks that the system has Core AI.

    Raises:
        OptionError: it is not macOS 27 or later.
    """
    version = platform.mac_ver()[0] if sys.platform == "darwin" else ""
    if int(version.partition(".")[0] or 0) < MACOS:
        where = f"macOS {version}" if version else platform.system()
        raise OptionError(
            f"Core AI encodes on macOS {MACOS} or later, not on {where};"
            " use --encoder mlx here"
        )


class CoreAIEncoder:
    """An `.aimodel` as `FastVLMModel.encoder`.

    Attributes:
        projected: it gives the language model's embeddings, not features.
    """

    def __init__(self, package: Path):
        self.path = package
        self._model = CoreAIModel(package).__enter__()
        described = {name: self._model.describe(name) for name in self._model.functions}
        self.functions = {
            int(each.input_descriptor(each.input_names[0]).shape[-1]): name
            for name, each in described.items()
        }
        first = next(iter(described.values()))
        self.input, self.output = first.input_names[0], first.output_names[0]
        self.projected = self.output == "image_embeddings"

    def __call__(self, pixels: Any) -> mx.array:
        """Encodes images one by one.

        Shapes:
            pixels: (N, R, R, 3), uint8 or floats in 0..1; returns (N, tokens, width)
        Raises:
            OptionError: the package has no function for the resolution R.
        """
        arrays = np.asarray(pixels)
        name = self.functions.get(arrays.shape[1])
        if name is None:
            sizes = ", ".join(map(str, sorted(self.functions)))
            raise OptionError(
                f"--resolution {arrays.shape[1]}: {self.path.name} holds {sizes};"
                " use one of these or export it with this one"
            )
        # [N, R, R, 3] -> N of [1, 3, R, R]
        images = unit_floats(arrays).transpose(0, 3, 1, 2)[:, None]
        found = [self._model.run(name, {self.input: image}) for image in images]
        return mx.array(np.concatenate([each[self.output] for each in found]))
