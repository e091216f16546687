"""What the programs' requests share: an image, and how each protocol answers."""

import base64
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def jpeg(images: Path) -> str:
    """The base64 of a small JPEG, as cameras and libraries send."""
    import io

    from PIL import Image

    file = io.BytesIO()
    with Image.open(images / "coffee.png") as image:
        image.convert("RGB").save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()
