"""Decodes the images of requests within limits, and caches their digests."""

import hashlib
from collections import OrderedDict
from typing import TYPE_CHECKING

from fastvlm_mlx.conversation.attachment import Attachment, attach
from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing import heif
from fastvlm_mlx.processing.image_file import MAX_PIXELS, open_image, size_of
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

# Pillow reads forty more formats, seldom used and seldom tested.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", heif.FORMAT)
_FORMATS_NAMED = (
    "WebP or another format of Pillow's",
    "WebP, GIF, BMP, TIFF, AVIF or HEIC image",
)
_MAX_KNOWN = 1024  # images whose digest is cached, 200 bytes each


class Images:
    """Makes attachments for `model` from image files, preprocessed as `view` says.

    `max_pixels` of all images of a request are named in errors.
    Use it on the thread that runs the model only.
    """

    def __init__(self, model: "FastVLMModel", view: ImageOptions, max_pixels: int):
        self._model = model
        self._max_pixels = max_pixels
        self._view = view
        self._known: OrderedDict[bytes, tuple[str, int]] = OrderedDict()

    def attach(self, data: bytes, pixels: int) -> tuple[Attachment, int]:
        """The image, and how many of `pixels`, the most to decode, remain.

        Raises:
            ImageError: It cannot be opened, or has more than `pixels` pixels.
        """
        name = hashlib.blake2b(data, digest_size=16).digest()
        if name in self._known:
            self._known.move_to_end(name)
            digest, tokens = self._known[name]
            # Often nothing but its digest is needed.
            pinpoints = self._model.config.grid_pinpoints
            known = Attachment(
                path=None,
                image=None,
                digest=digest,
                tokens=tokens,
                pixels=lambda: preprocess(open_image(data), self._view, pinpoints),
            )
            return known, pixels
        limit = f"{self._max_pixels / 1e6:g} megapixels"
        try:
            width, height = size_of(data, FORMATS)
        except heif.MissingHEIF:
            raise ImageError(
                f"image of {len(data)} bytes: a HEIC image, which this server does not"
                " open; save it as JPEG"
            ) from None
        except ImageError as error:
            # Its limit is that of a program that has one image to open, and it opens
            # more formats.
            library_limit = f"{MAX_PIXELS // 10**6} megapixels"
            message = str(error).replace(library_limit, limit)
            raise ImageError(message.replace(*_FORMATS_NAMED)) from None
        if width * height > pixels:
            raise ImageError(
                f"image of {len(data)} bytes: {width}x{height} pixels; all images of a"
                f" request may have {limit} at most; scale it down first"
            )
        image = attach(self._model, data, self._view)
        image.image = None  # only a conversation that is saved would need it
        self._known[name] = image.digest, image.tokens
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return image, pixels - width * height
