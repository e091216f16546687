"""Decodes the images of requests within limits, and caches their digests."""

import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from typing import TYPE_CHECKING

from fastvlm_mlx.app.server.http.errors import APIError
from fastvlm_mlx.conversation.attachment import Attachment, attach
from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing.image_file import open_image, size_of
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

# Pillow reads forty more formats, seldom used and seldom tested.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_DATA = re.compile(r"data:[\w.+-]*/?[\w.+-]*(;[\w.+=-]*)*;base64,", re.ASCII)
_MAX_KNOWN = 1024  # images whose digest is cached, 200 bytes each


def from_base64(text: str) -> bytes:
    """The bytes that `text` encodes.

    Raises:
        APIError: It is not base64, or empty.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data:
        raise APIError(
            400, "an image is not base64 of a file", code="invalid_image"
        ) from None
    return data


def from_url(url: str) -> bytes | str:
    """The bytes of a data: URL, or an http(s) URL unchanged, to be fetched later.

    Raises:
        APIError: It is neither.
    """
    if match := _DATA.match(url[:200]):
        return from_base64(url[match.end() :])
    if url[:8].lower().startswith(("http://", "https://")):
        return url
    # Not quoted in the message: it may be part of an image.
    raise APIError(
        400,
        "an image's url must be data:image/...;base64,... or an http(s) address",
        code="invalid_image_url",
    )


class Images:
    """Makes attachments for `model` from image files, preprocessed as `view` says.

    Use it on the thread that runs the model only.
    """

    def __init__(self, model: "FastVLMModel", view: ImageOptions):
        self._model = model
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
        width, height = size_of(data, FORMATS)
        if width * height > pixels:
            raise ImageError(
                f"image of {len(data)} bytes: {width}x{height} pixels are more than"
                " one request may have; scale it down first"
            )
        image = attach(self._model, data, self._view)
        image.image = None  # only a conversation that is saved would need it
        self._known[name] = image.digest, image.tokens
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        return image, pixels - width * height
