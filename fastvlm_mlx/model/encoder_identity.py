"""Whether two encoders say the same of an image, and how wide what they say is."""

import hashlib
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from fastvlm_mlx.cpu import kernels
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.feature_files import array_hash
from fastvlm_mlx.model.vision import WEIGHTS_LOCK
from fastvlm_mlx.model.vlm import FastVLMModel


def encoder_width(model: FastVLMModel) -> int:
    """The width of `encode_features`' output.

    Raises:
        CheckpointError: the model has no encoder, no projector or no language model.
    """
    config = model.config
    if config.projector is None or config.text is None:
        raise CheckpointError(
            "this checkpoint is an encoder alone and cannot be trained;"
            " give a whole FastVLM checkpoint"
        )
    if model.encoder is not None:
        return config.projector.dims[-1 if model.encoder.projected else 0]
    if model.vision_tower is None:
        raise CheckpointError(
            "this model has no vision encoder; convert it with --encoder-from"
            " and a checkpoint that has one"
        )
    return config.projector.dims[0]


def encoder_hash(model: FastVLMModel, side: int) -> str:
    """A hash of the encoder: of weights and products, or of what it says of one image.

    `side` is the resolution that images are shown with, in pixels.
    """
    digest = hashlib.blake2b(digest_size=16)
    if model.encoder is not None:  # such as Core ML's, whose weights are not known here
        probe = np.linspace(0, 1, side * side * 3, dtype=np.float32)
        features = model.encode_features(probe.reshape(1, side, side, 3))
        digest.update(array_hash(features).encode())
    elif model.vision_tower is not None:
        with WEIGHTS_LOCK:
            tensors: Any = tree_flatten(model.vision_tower.parameters())
        for name, array in sorted(tensors, key=lambda pair: pair[0]):
            digest.update(f"{name}{array_hash(array)}".encode())
        if any(array.dtype == mx.bfloat16 for _, array in tensors):
            digest.update(kernels.bfloat16_form().encode())
    return digest.hexdigest()
