"""An image in a conversation: opened, named by its content, encoded once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from PIL import Image

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.processing.image_file import Source, open_image
from fastvlm_mlx.processing.image_processor import (
    ImageOptions,
    content_hash,
    preprocess,
)

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel


@dataclass(eq=False)
class Attachment:
    """An image of a conversation.

    `path` is where it came from, or None if only `image` has it. `digest` names the
    pixels the model sees, so it depends on the view too.
    """

    path: str | None
    image: Image.Image | None = field(repr=False)
    digest: str
    tokens: int
    seconds: tuple[float, float] = (0.0, 0.0)  # to decode, to preprocess
    _pixels: np.ndarray | None = field(default=None, repr=False)
    _features: mx.array | None = field(default=None, repr=False)

    def features(self, model: "FastVLMModel") -> mx.array:
        """Its embeddings, `(tokens, hidden)`, under way; encoded at most once."""
        if self._features is None:
            known = model.feature_cache.get(self.digest)
            if known is None:
                # [N, tokens, hidden] -> [N * tokens, hidden], overview first
                known = [model.encode_pixels(self._pixels).flatten(0, 1)]
                model.feature_cache.put(self.digest, known)
            self._features, self._pixels = known[0], None
        return self._features


def attach(
    model: "FastVLMModel", source: Source | Attachment, view: ImageOptions
) -> Attachment:
    """Opens an image for `model` without encoding it; anything `open_image` opens.

    What is an attachment already is returned as it is; it must be of the same view.
    Raises ImageError if it cannot be opened, CheckpointError if `model` has no eyes.
    """
    config = model.config
    if config.vision is None and not config.coreml_encoder:
        raise CheckpointError(
            "this model has no vision encoder; convert it with --encoder-from"
            " and a checkpoint that has one"
        )
    if isinstance(source, Attachment):
        return source
    begun = time.perf_counter()
    image = open_image(source)
    opened = time.perf_counter()
    pixels = preprocess(image, view, config.grid_pinpoints)
    digest = content_hash(pixels)
    path = None
    if not isinstance(source, Image.Image | bytes) and str(source) != "-":
        path = str(source)
    elif image is source:
        # The caller may draw on it; what was shown is what will be saved.
        image = image.copy()
    return Attachment(
        path=path,
        image=None if path else image,
        digest=digest,
        tokens=len(pixels) * (config.vision or VisionConfig()).tokens(view.resolution),
        seconds=(opened - begun, time.perf_counter() - opened),
        _pixels=pixels,
    )


Pieces = list[list[int] | Attachment]


def length(pieces: Sequence[list[int] | Attachment]) -> int:
    """Positions that `pieces` take in the context."""
    return sum(
        piece.tokens if isinstance(piece, Attachment) else len(piece)
        for piece in pieces
    )
