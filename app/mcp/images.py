"""The images that tool arguments name: paths, data: URLs, base64, http(s) URLs."""

import os
from urllib.parse import unquote, urlsplit

import anyio

from fastvlm_mlx.app.mcp.roots import Roots
from fastvlm_mlx.app.server.api import image_data
from fastvlm_mlx.app.server.engine.fetch import Fetcher
from fastvlm_mlx.app.server.http.errors import APIError, api_error_from
from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing.image_source import MAX_BYTES

MAX_FETCHES = 4  # at once
# A path is shorter on every system; what is longer can only be the image itself.
_LONGEST_PATH = 4096
# How base64 begins of PNG, JPEG, GIF, WebP, BMP and both TIFFs. An absolute path may
# begin like a JPEG, with /9j/: it is read as a path if that file exists.
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "SUkqAA", "TU0AKg")


class ImageReader:
    """Reads images of tool calls: files from `roots`, URLs with `fetcher`."""

    def __init__(self, roots: Roots, fetcher: Fetcher):
        self.roots = roots
        self._fetcher = fetcher
        self._fetches = anyio.CapacityLimiter(MAX_FETCHES)

    async def read(self, texts: list[str], fields: list[str]) -> tuple[bytes, ...]:
        """The files of the images, which errors call by `fields`.

        Raises:
            APIError: one of them cannot be had, or all are too large together.
        """
        images: list[bytes] = []
        left = MAX_BYTES
        for text, field in zip(texts, fields, strict=True):
            try:
                image = await self._read(text, field, left)
            except ImageError as error:
                raise api_error_from(error).at(field) from None
            left = max(0, left - len(image))
            images.append(image)
        return tuple(images)

    async def _read(self, text: str, field: str, left: int) -> bytes:
        text = text.strip()
        if not text:
            raise APIError(400, f"{field}: is empty; give a path or a data: URL")
        if image_data.is_data_url(text):
            data = image_data.from_url(text, field)
            assert isinstance(data, bytes)
            return data
        if text[:8].lower().startswith(("http://", "https://")):
            return await self._fetch(text, field)
        if text[:7].lower() == "file://":
            text = _path_of(text, field)
        elif len(text) > _LONGEST_PATH or (
            text.startswith(_BASE64_STARTS) and not self._is_file(text)
        ):
            return image_data.from_base64(text, field)
        return await anyio.to_thread.run_sync(self.roots.read, text, left)

    def _is_file(self, text: str) -> bool:
        return any(os.path.isfile(root / text) for root in self.roots.folders)

    async def _fetch(self, url: str, field: str) -> bytes:
        try:
            return await anyio.to_thread.run_sync(
                self._fetcher.read,
                url,
                limiter=self._fetches,
                abandon_on_cancel=True,
            )
        except APIError as error:
            raise error.at(field) from None


def _path_of(url: str, field: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = None
    if parts is None or parts.netloc not in ("", "localhost"):
        raise APIError(400, f"{field}: a file: URL must be file:///PATH")
    return unquote(parts.path)
