"""The MLX encoder's outputs on real images, beside which an export is judged.

The figure is the peak signal-to-noise ratio of apple/ml-stable-diffusion's export gate:
20 log10(largest |reference| / root mean square error), in dB.
"""

import importlib.resources
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.vlm import FastVLMModel
from fastvlm_mlx.processing.image_file import Source, open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess, unit_floats

# In dB; an export below it is not written. ml-stable-diffusion and whisperkittools
# require 35.
REQUIRED_PSNR = 35.0
REQUIRED_PSNR_COMPRESSED = 25.0

# Pixels of all images compared at one resolution: evaluating one of 1024 px takes
# some ten seconds.
PIXEL_BUDGET = 2 * 512 * 512
MAX_RESOLUTION = 4096  # pixels a side; more is a damaged package


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
