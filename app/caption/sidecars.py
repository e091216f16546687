"""Text files beside the images, as training programs want their captions."""

import os
from pathlib import Path

from fastvlm_mlx.app.caption.find_images import identity, is_address
from fastvlm_mlx.app.caption.records import Record
from fastvlm_mlx.app.caption.writing import unwritable
from fastvlm_mlx.errors import OptionError


class Sidecars:
    """A text file beside each image: `cat.jpg` gets `cat.txt`, whole or not at all.

    Raises:
        OptionError: two images would share a file.
    """

    on_terminal = False

    def __init__(self, images: list[str], *, overwrite: bool):
        owners: dict[Path, str] = {}
        self.done: set[str] = set()
        for image in images:
            if is_address(image):
                raise OptionError(f"{image}: has no place for a .txt; use -o FILE")
            path = Path(image).with_suffix(".txt")
            other = owners.setdefault(path, image)
            if other != image:
                raise OptionError(
                    f"{other} and {image} would share {path.name}; rename one, or"
                    " use -o FILE"
                )
            if path.exists() and not overwrite:
                self.done.add(identity(image))

    def begin(self):
        pass

    def write(self, record: Record):
        """Writes the caption of an image; an error has no file."""
        if record.error is not None:
            return
        path = Path(record.image).with_suffix(".txt")
        # Left behind by a kill, it is written again: its image is not done.
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_text(f"{record.text()}\n", encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise unwritable(path, error) from None

    def close(self):
        pass
