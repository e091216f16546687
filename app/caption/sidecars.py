"""Text files beside the images, as training programs want their captions."""

import os
import stat
import unicodedata
from pathlib import Path

from fastvlm_mlx.app.caption.find_images import identity, is_address
from fastvlm_mlx.app.caption.output import Output
from fastvlm_mlx.app.caption.records import Record
from fastvlm_mlx.app.lines.writing import FULL, NoPlace, take_over, unwritable
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.temporary_names import partial_name, remove_stale
from fastvlm_mlx.processing import pdf

# What unfinished files are called, whatever the image: names end at 255 bytes.
NAME = "caption"


class Sidecars(Output):
    """A text file beside each image: `cat.jpg` gets `cat.txt`, whole or not at all.

    An empty text is no caption. What a link points to is written; the link stays.

    Raises:
        OptionError: two images would share a file.
    """

    def __init__(self, images: list[str], *, overwrite: bool):
        owners: dict[Path, str] = {}
        self._folders: set[str] = set()
        done: set[str] = set()
        for image in images:
            if is_address(image):
                raise OptionError(f"{image}: has no place for a .txt; use -o FILE")
            path = _text_of(image)
            other = owners.setdefault(path, image)
            if other != image:
                raise OptionError(
                    f"{other} and {image} would share {path.name}; rename one, or"
                    " use -o FILE"
                )
            if not overwrite and _holds_text(path) and not _are_one(path, image):
                done.add(identity(image))
            else:
                self._folders.add(os.path.dirname(os.path.realpath(path)))
        self.done = done

    def begin(self):
        """Removes the unfinished texts of runs that were killed."""
        for folder in self._folders:
            remove_stale(Path(folder), NAME)

    def check(self, image: str):
        """Checks that the text of an image can be written, before it is captioned.

        Raises:
            NoPlace: it cannot.
        """
        check_place(_text_of(image), image)

    def write(self, record: Record):
        """Writes the caption of an image; an error has no file."""
        if record.error is not None:
            return
        path = _text_of(record.image)
        data = f"{record.text()}\n".encode(errors="replace")
        try:
            write_beside(path, data)
        except OSError as error:
            fault = unwritable(path, error)
            raise fault if error.errno in FULL else NoPlace(str(fault)) from None


def _text_of(image: str) -> Path:
    """The text of an image, also if its name has changed its Unicode form since."""
    file, page = pdf.split_page(image)
    if page is not None:
        return Path(file).with_suffix(f".page-{page}.txt")
    path = Path(image).with_suffix(".txt")
    if image.isascii() or os.path.lexists(path):
        return path
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, image)
        text = Path(other).with_suffix(".txt")
        if os.path.lexists(text) and not os.path.lexists(other):
            return text
    return path


def _are_one(text: str | Path, image: str) -> bool:
    """Whether the text would replace the image: by its name, or through a link."""
    try:
        return os.path.samefile(text, image)
    except OSError:
        return False


def _holds_text(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def check_place(path: Path, image: str) -> None:
    """Checks that a file beside an image can be written.

    Raises:
        NoPlace: it cannot.
    """
    place = os.path.realpath(path)
    try:
        if _are_one(place, image):
            raise NoPlace(f"{path}: is the image itself; use -o FILE")
        if not stat.S_ISREG(os.stat(place).st_mode):
            raise NoPlace(f"{path}: is no file; rename it, or use -o FILE")
        writable = os.access(place, os.W_OK)
    except FileNotFoundError:
        writable = os.access(os.path.dirname(place), os.W_OK | os.X_OK)
    except OSError as error:
        raise NoPlace(str(unwritable(path, error))) from None
    if not writable:
        raise NoPlace(f"{path}: cannot be written; choose a place with -o FILE")


def write_beside(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all; a link stays, and so do mode and owner.

    Raises:
        OSError: it cannot be written.
    """
    place = Path(os.path.realpath(path))
    there = place.exists()
    part = place.parent / partial_name(NAME)
    try:
        if not there or place.stat().st_nlink == 1:
            try:
                with part.open("xb") as file:
                    file.write(data)
                if there:
                    take_over(place, part)
                os.replace(part, place)
                return
            finally:
                part.unlink(missing_ok=True)
    except PermissionError:
        if not there:
            raise
    # Its folder takes no new files, only its owner may make one like it, or it has
    # another name that must stay its own.
    place.write_bytes(data)
