"""Images inside data files, read when they are needed and not before.

A table with an image in each row has gigabytes; a reference to where an image lies has
a few bytes.
"""

import base64
import binascii
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from fastvlm_mlx.errors import ImageError


class StoredImage(ABC):
    """An image that lies in a data file; comparable and hashable."""

    @abstractmethod
    def read(self) -> bytes:
        """The bytes of the image file.

        Raises:
            ImageError: they cannot be read, or are none.
        """


@dataclass(frozen=True)
class Base64Slice(StoredImage):
    """An image written as base64 at a place of a file.

    Attributes:
        path: the data file.
        start: where it begins, in bytes.
        length: of the base64, in bytes.
        origin: "file:line", for messages.
    """

    path: Path
    start: int
    length: int
    origin: str

    def read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                text = file.read(self.length)
            # Base64 of a URL writes these two characters in another way.
            text = b"".join(text.split()).translate(bytes.maketrans(b"-_", b"+/"))
            data = base64.b64decode(text, validate=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ImageError(f"{self.origin}: {reason}; check the file") from error
        except (ValueError, binascii.Error):
            raise ImageError(
                f"{self.origin}: the image is not base64; download the file again"
            ) from None
        if not data:
            raise ImageError(f"{self.origin}: the image is empty; take the row out")
        return data
