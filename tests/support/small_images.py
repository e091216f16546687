"""Images for tests, and how they are compared or refused."""

import io

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing.image_file import open_image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def assert_close(got, expected, tolerance: int) -> None:
    difference = np.abs(np.asarray(got).astype(int) - np.asarray(expected).astype(int))
    where = np.unravel_index(difference.argmax(), difference.shape)
    print(f"largest difference {difference.max()} at {where}, mean {difference.mean()}")
    assert difference.max() <= tolerance


def refused(source, name: str | None = None) -> str:
    """The one line with which `source` is refused, without the name it begins with."""
    name = str(source) if name is None else name
    with pytest.raises(ImageError) as caught:
        open_image(source)
    message = str(caught.value)
    print(message)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message and message.isprintable()
    assert ";" in message or "`" in message, "no way out"
    return message.removeprefix(f"{name}: ")


def psnr(got: Image.Image, expected: Image.Image) -> float:
    """Peak signal-to-noise ratio of two images of one size, in dB."""
    assert got.size == expected.size
    one, other = (np.asarray(each.convert("RGB"), float) for each in (got, expected))
    error = float(((one - other) ** 2).mean())
    value = float("inf") if not error else 10 * float(np.log10(255**2 / error))
    print(f"PSNR {value:.1f} dB")
    return value
