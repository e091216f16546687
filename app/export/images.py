"""Checks `--image` before a model is downloaded or loaded."""

from collections.abc import Sequence
from pathlib import Path

from fastvlm_mlx.processing.image_file import open_image


def check_images(images: Sequence[Path]) -> None:
    """Opens each image that can be opened again.

    Raises:
        ImageError: one cannot be opened.
    """
    for path in images:
        # What comes through a pipe or as standard input can be read once only.
        if path.is_file() or (str(path) != "-" and not path.exists()):
            open_image(str(path))
