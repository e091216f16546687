"""Turns what Python code has in memory, file objects and arrays, into plain images."""

from typing import Any

import numpy as np
from PIL import Image

from fastvlm_mlx.errors import ImageError, quoted


def plain(source: Any) -> Any:
    """The bytes of a binary file object, an array as a PIL image, all else as it is.

    An array is (H, W) or (H, W, C) with one, three or four channels, grey, RGB or RGBA,
    in uint8; NumPy's, MLX's, or any other that NumPy can read. A file object is read
    from where it stands.

    Raises:
        ImageError: an array has another shape or dtype, or a file object cannot be
            read.
    """
    if isinstance(source, Image.Image | str | bytes):
        return source
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    if callable(getattr(source, "read", None)):
        return _read(source)
    if hasattr(source, "__array__") or hasattr(source, "__array_interface__"):
        return _from_array(np.asarray(source))
    return source


def _read(file: Any) -> bytes:
    name = type(file).__name__
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{name}: cannot be read ({quoted(error)}); open it again"
        ) from error
    if not isinstance(data, bytes):
        raise ImageError(f"{name}: not opened as binary; use open(PATH, 'rb')")
    if not data:
        raise ImageError(f"{name}: nothing left to read; go to its start with seek(0)")
    return data


def _from_array(values: np.ndarray) -> Image.Image:
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (1, 3, 4) or not values.size:
        raise ImageError(
            f"array of shape {values.shape}: not an image; give (height, width) or"
            " (height, width, channels) with 1, 3 or 4 channels"
        )
    if values.dtype != np.uint8:
        raise ImageError(
            f"array of {values.dtype}: not an image; give uint8 values from 0 to 255"
        )
    return Image.fromarray(
        values[..., 0] if values.ndim == 3 and channels == 1 else values
    )
