"""Finds the images in a line that was typed, pasted or dragged into a terminal.

`/photos/cat.png What is it?` holds one image and a question. A name may be quoted
('a b.png'), escaped (a\\ b.png), start with ~ or be a file:// address, as terminals and
file managers write it.
"""

import io
import os
import re
import shlex
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.processing.pdf import split_page

# What a path starts with that is no word of a sentence.
_WHOLE_PATH = re.compile(r"/|~[\w.-]*/|\.{1,2}/|file://", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[^\s/]", re.IGNORECASE)
# A sentence may go on behind a name: "/photos/cat.png, what is it?"
_PUNCTUATION = ",;:.?!"
# Known without asking Pillow, which reads all its plug-ins first (0.1 s). It opens none
# of the last four by itself, but people have them, and are told what to do.
_COMMON = frozenset(
    ".avif .bmp .gif .jpeg .jpg .png .tif .tiff .webp .heic .heif .pdf .svg".split()
)
# No path is longer on Linux; macOS has 1024.
_LONGEST_PATH = 4096


def images_and_question(line: str) -> tuple[list[str], str]:
    """The images of a line, as paths and addresses, and the words that are left.

    At the start of the line an image is any path of a file, an http(s) address, or the
    name of an existing image file. Behind other words it must be a whole path (from
    `/`, `~/`, `./` or `file://`) of an existing image file.
    """
    images: list[str] = []
    kept = ""
    rest = line.lstrip()
    while rest:
        name, used = _image_at(rest, at_start=not kept)
        if name is not None:
            images.append(name)
        else:
            word = re.match(r"\S+\s*", rest)
            used = word.end() if word else len(rest)
            kept += rest[:used]
        rest = rest[used:].lstrip() if name is not None else rest[used:]
    return images, kept.strip()


def names(text: str) -> list[str]:
    r"""The file names in a text that holds nothing else.

    `a.png b.png` are two, `'a b.png'`, `a\ b.png` and an existing `a b.png` are one.
    A leading ~ is the home folder.
    """
    if exists(text):
        return [text]
    try:
        words = shlex.split(text)
    except ValueError:
        # An apostrophe in a name is no quotation: /image Anna's cat.png
        words = [text]
    return [_path(word) for word in words]


def first_word(text: str) -> str:
    """The first word as the shell would read it, or up to the first space."""
    word = next(_shell_words(text), None)
    return _path(word[0]) if word else text.split(maxsplit=1)[0]


def is_path(text: str) -> bool:
    """Whether the first word must be meant as a path, even if there is no such file."""
    word = first_word(text)
    parts = [part for part in word.split("/") if part]
    whole = bool(_WHOLE_PATH.match(text)) and (len(parts) > 1 or os.path.lexists(word))
    return bool(parts) and (whole or looks_like_an_image(word))


def are_images(text: str) -> bool:
    """Whether every word is the name of an image, as its suffix tells."""
    words = names(text)
    return bool(words) and all(looks_like_an_image(word) for word in words)


def exists(name: str) -> bool:
    """Whether this names a file; whatever was typed, this never raises."""
    try:
        return expand_user(split_page(name)[0]).is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def looks_like_an_image(name: str) -> bool:
    """Whether the name ends as those of images do."""
    suffix = os.path.splitext(split_page(name)[0])[1].lower()
    if not suffix or suffix in _COMMON:
        return bool(suffix)
    from PIL import Image

    return suffix in Image.registered_extensions()


def _image_at(text: str, *, at_start: bool) -> tuple[str | None, int]:
    """The image that `text` starts with, and the length of what names it."""
    if at_start and _ADDRESS.match(text):
        address = text.split(maxsplit=1)[0]
        return address, len(address)
    if not at_start and not _WHOLE_PATH.match(text.lstrip("'\"")):
        return None, 0
    for name, used in (*_raw_names(text), *_shell_words(text)):
        for trimmed in (name, name.rstrip(_PUNCTUATION)):
            path = _path(trimmed)
            if not exists(path):
                continue
            whole = bool(_WHOLE_PATH.match(trimmed)) and at_start
            if whole or looks_like_an_image(path):
                return path, used
    return None, 0


def _raw_names(text: str) -> Iterator[tuple[str, int]]:
    """Names with spaces that nobody escaped, the longest first: `a b.png What?`."""
    line = text[:_LONGEST_PATH].split("\n")[0]
    for gap in reversed(list(re.finditer(r"\s+|$", line))):
        name = line[: gap.start()]
        yield name, gap.start()
        if "\\" in name:  # some of its spaces are escaped
            yield re.sub(r"\\(.)", r"\1", name), gap.start()


def _shell_words(text: str) -> Iterator[tuple[str, int]]:
    """The first word with its quotes and escapes taken away, if they are complete."""
    stream = io.StringIO(text)
    words = shlex.shlex(stream, posix=True)
    words.whitespace_split, words.commenters = True, ""
    try:
        word = words.get_token()
    except ValueError:
        return
    if word:
        yield word, stream.tell()


def _path(name: str) -> str:
    """The name with ~ expanded and a file:// address as a path."""
    if name[:7].lower() == "file://":
        parts = urlsplit(name)
        if parts.netloc in ("", "localhost"):
            # Undecodable bytes are kept, as everywhere in Python's paths.
            return unquote(parts.path, errors="surrogateescape")
    try:
        return str(expand_user(name)) if name[:1] == "~" else name
    except RuntimeError:  # an unknown ~user
        return name
