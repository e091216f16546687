"""XMP files beside the images, as photo programs read descriptions, titles and tags."""

import os
from collections import Counter
from pathlib import Path

from fastvlm_mlx.app.caption.find_images import identity, is_address
from fastvlm_mlx.app.caption.output import Output
from fastvlm_mlx.app.caption.records import Record
from fastvlm_mlx.app.caption.sidecars import NAME, check_place, write_beside
from fastvlm_mlx.app.caption.xmp import LARGEST, Field, Packet
from fastvlm_mlx.app.lines.writing import FULL, NoPlace, unwritable
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.temporary_names import remove_stale
from fastvlm_mlx.processing.image_suffixes import foreign_suffixes, opened_suffixes


class XMPSidecars(Output):
    """An XMP file beside each image: `cat.jpg` has `cat.jpg.xmp`.

    If that is not there, but `cat.xmp` is and can be about no other image, that is it.
    Such a file of another program keeps all that it holds; one that cannot be read is
    left as it is, and its image fails. An image whose property has a value is done.

    Args:
        images: their names.
        field: the property that captions are.
        overwrite: replaces texts that are there. Tags are added to.
    Raises:
        OptionError: an image has an address and no place.
    """

    def __init__(self, images: list[str], field: Field, *, overwrite: bool):
        self._field: Field = field
        self._overwrite = overwrite
        self._names: dict[str, Counter[str]] = {}
        self._folders: set[str] = set()
        done: set[str] = set()
        for image in images:
            if is_address(image):
                raise OptionError(f"{image}: has no place for an .xmp; use -o FILE")
            path = self.path(image)
            if not overwrite and self._has_value(path):
                done.add(identity(image))
            else:
                self._folders.add(os.path.dirname(os.path.realpath(path)))
        self.done = done

    def begin(self):
        """Removes the unfinished files of runs that were killed."""
        for folder in self._folders:
            remove_stale(Path(folder), NAME)

    def check(self, image: str):
        """Checks that the file of an image can be written, before it is captioned.

        Raises:
            NoPlace: it cannot, or is no XMP; or the image is a page of a file.
        """
        if not os.path.lexists(image):
            raise NoPlace(f"{image}: only a whole file has an .xmp; use -o FILE")
        path = self.path(image)
        check_place(path, image)
        self._read(path)

    def write(self, record: Record):
        """Sets the property of an image; an error has no file."""
        if record.error is not None:
            return
        path = self.path(record.image)
        packet = self._read(path)
        if not self._overwrite and packet.values(self._field):
            raise NoPlace(
                f"{path}: got a {self._field} meanwhile, which stays; --overwrite"
                " replaces it"
            )
        tags = isinstance(record.caption, list)
        packet.set(self._field, record.caption if tags else record.text())
        try:
            write_beside(path, packet.data())
        except OSError as error:
            fault = unwritable(path, error)
            raise fault if error.errno in FULL else NoPlace(str(fault)) from None

    def path(self, image: str) -> Path:
        """Where the XMP of an image is, or will be."""
        own, other = Path(f"{image}.xmp"), Path(image).with_suffix(".xmp")
        if (
            not os.path.lexists(own)
            and os.path.lexists(other)
            and self._is_alone(image)
        ):
            return other
        return own

    def _is_alone(self, image: str) -> bool:
        """Whether no other image of its folder has its name, but for the suffix."""
        folder, name = os.path.split(image)
        if folder not in self._names:
            kinds = opened_suffixes() | foreign_suffixes()
            try:
                files = [os.path.splitext(file) for file in os.listdir(folder or ".")]
            except OSError:
                return False
            found = Counter(stem for stem, kind in files if kind.lower() in kinds)
            self._names[folder] = found
        return self._names[folder][os.path.splitext(name)[0]] < 2

    def _has_value(self, path: Path) -> bool:
        try:
            return path.is_file() and bool(self._read(path).values(self._field))
        except (NoPlace, OSError):
            return False  # told of when its turn comes

    def _read(self, path: Path) -> Packet:
        try:
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
        except FileNotFoundError:
            return Packet()
        except OSError as error:
            raise NoPlace(str(unwritable(path, error))) from None
        try:
            # An empty file is nobody's: a program was interrupted.
            return Packet(data if data.strip() else None)
        except OptionError as error:
            raise NoPlace(
                f"{path}: {error}; it stays as it is: move it away, or use -o FILE"
            ) from None
