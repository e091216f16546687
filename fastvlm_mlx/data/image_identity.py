"""Which images are the same: one file under two names, copies, one address."""

import hashlib
from collections import Counter
from collections.abc import Iterable

from fastvlm_mlx.data.image_reference import Image, file_of
from fastvlm_mlx.processing import pdf

_CHUNK = 1 << 20


def content_hash(image: Image) -> str:
    """A hash of the content of an image file: 32 hexadecimal digits.

    Of an address it is the hash of the address: nothing is fetched to be compared.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    path = file_of(image)
    if path is None:
        text = image if isinstance(image, bytes) else f"address {image}".encode()
        digest.update(text)
        return digest.hexdigest()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    page = pdf.split_page(str(image))[1]
    if page is not None:
        digest.update(f"page {page}".encode())
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
    path = file_of(image)
    try:
        return None if path is None else path.stat().st_size
    except OSError:
        return None


def _identity(image: Image, *, shared: bool) -> str:
    if isinstance(image, bytes) or shared:
        try:
            return f"content {content_hash(image)}"
        except OSError:
            pass
    path = file_of(image)
    if path is None:
        return f"address {image}"
    page = pdf.split_page(str(image))[1]
    return f"file {path.absolute()}" + ("" if page is None else f" page {page}")
