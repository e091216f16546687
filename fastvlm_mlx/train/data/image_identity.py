"""Which images are the same: one file under two names, copies, one address."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fastvlm_mlx.train.data.samples import Image

_CHUNK = 1 << 20


def file_hash(image: Path | bytes) -> str:
    """A hash of the content of an image file: 32 hexadecimal digits.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(image, bytes):
        digest.update(image)
        return digest.hexdigest()
    with image.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def identities(images: Iterable[Image]) -> dict[Image, str]:
    """A text for each image, the same for those of the same content.

    Only files of the same size are read. One that cannot be read is its own name.
    """
    distinct = list(dict.fromkeys(images))
    sizes = {image: size for image in distinct if (size := _size(image)) is not None}
    counts = Counter(sizes.values())
    return {
        image: _identity(image, shared=counts[sizes.get(image, -1)] > 1)
        for image in distinct
    }


def _size(image: Image) -> int | None:
    if isinstance(image, bytes):
        return len(image)
    try:
        return image.stat().st_size if isinstance(image, Path) else None
    except OSError:
        return None


def _identity(image: Image, *, shared: bool) -> str:
    if isinstance(image, str):
        return f"address {image}"
    if isinstance(image, bytes) or shared:
        try:
            return f"content {file_hash(image)}"
        except OSError:
            pass
    return f"file {image}"
