"""An image in a conversation: opened once, identified by its content, encoded once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import mlx.core as mx
import numpy as np
from PIL import Image

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.processing.image_file import Source, open_image
from fastvlm_mlx.processing.image_input import plain
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import content_hash, preprocess

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel


@dataclass(eq=False)
class Attachment:
    """An image of a conversation.

    - `path`: where it came from; None if only `image` has it.
    - `image`: the image itself if it came without a path.
    - `digest`: a hash of the pixels the model sees, so it depends on the options too.
    - `tokens`: positions it takes in the context.
    - `pixels`: (N, R, R, 3), or a function that makes them, which is only called if
      the model's cache has no features for `digest`; None once it is encoded.
    - `decode_seconds`, `preprocess_seconds`: the time that opening it took.
    - `label`: a line before the image in the prompt, such as "frame at 1.5 s:".
    """

    path: str | None
    image: Image.Image | None = field(repr=False)
    digest: str
    tokens: int
    pixels: np.ndarray | Callable[[], np.ndarray] | None = field(
        default=None, repr=False
    )
    decode_seconds: float = 0.0
    preprocess_seconds: float = 0.0
    label: str = ""
    _features: mx.array | None = field(default=None, repr=False)

    def features(self, model: "FastVLMModel") -> mx.array:
        """Its embeddings, `(tokens, hidden)`, under way; encoded at most once."""
        if self._features is None:
            self._features = encoded(model, self.digest, self.pixels)
            self.pixels = None
        return self._features


def encoded(
    model: "FastVLMModel",
    digest: str,
    pixels: np.ndarray | Callable[[], np.ndarray] | None,
) -> mx.array:
    """The embeddings of an image, (N * tokens, hidden), from the model's cache or new.

    Args:
        model: encodes what its `feature_cache` has nothing of.
        digest: `content_hash` of `pixels`.
        pixels: (N, R, R, 3), or a function that makes them.
    """
    known = model.feature_cache.get(digest)
    if known is None:
        shown = pixels() if callable(pixels) else pixels
        # [N, tokens, hidden] -> [N * tokens, hidden], overview first
        known = [model.encode_pixels(shown).flatten(0, 1)]
        model.feature_cache.put(digest, known)
    return known[0]


def attach(
    model: "FastVLMModel", source: Source | Attachment, options: ImageOptions
) -> Attachment:
    """Opens an image for `model` without encoding it; anything `open_image` opens.

    An attachment is returned as it is; it must have been made with the same options.

    Raises:
        ImageError: it cannot be opened.
        CheckpointError: the model has no vision encoder.
    """
    config = model.config
    if config.vision is None and not config.coreml_encoder:
        raise CheckpointError(
            "this model has no vision encoder; convert it with --encoder-from"
            " and a checkpoint that has one"
        )
    if isinstance(source, Attachment):
        return source
    # A Core ML encoder has FastViTHD's stride, which is VisionConfig's default.
    vision = config.vision or VisionConfig()
    begun = time.perf_counter()
    given = plain(source)
    image = open_image(given, long_side=options.page_side)
    opened = time.perf_counter()
    pixels = preprocess(image, options, config.grid_pinpoints)
    digest = content_hash(pixels)
    path = None
    if not isinstance(given, Image.Image | bytes) and str(given) != "-":
        path = str(given)
    elif image is given:
        # The caller may draw on it; what was shown is what will be saved.
        image = image.copy()
    return Attachment(
        path=path,
        image=None if path else image,
        digest=digest,
        tokens=len(pixels) * vision.tokens(options.resolution),
        pixels=pixels,
        decode_seconds=opened - begun,
        preprocess_seconds=time.perf_counter() - opened,
    )


ImageSource = Source | Attachment
ImageSources = ImageSource | Sequence[ImageSource]
Pieces = list[list[int] | Attachment]


def as_list(images: ImageSources) -> Sequence[ImageSource]:
    """One image or several, as a sequence."""
    if isinstance(images, list | tuple):
        return cast(Sequence[ImageSource], images)
    return [cast(ImageSource, images)]


def stacked_pixels(
    images: Source | Sequence[Source],
    options: ImageOptions,
    pinpoints: Sequence[tuple[int, int]],
) -> np.ndarray:
    """The pixels of images and their tiles, (N, R, R, 3), for `encode_pixels`.

    Raises:
        ImageError: an image cannot be opened.
        OptionError: there is none.
    """
    sources = cast(Sequence[Source], as_list(images))
    if not sources:
        raise OptionError("images: an empty list; give at least one image")
    return np.concatenate(
        [
            preprocess(
                open_image(each, long_side=options.page_side), options, pinpoints
            )
            for each in sources
        ]
    )


def length(pieces: Sequence[list[int] | Attachment]) -> int:
    """Positions that `pieces` take in the context."""
    return sum(
        piece.tokens if isinstance(piece, Attachment) else len(piece)
        for piece in pieces
    )
