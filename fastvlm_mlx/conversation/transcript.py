"""A conversation as a JSON file: its turns, options and images, without KV cache.

Answers are saved as text and as token ids, because one text can be spelled in several
ways and only the same ids continue the same way. Images are saved by path and hash,
or as a PNG inside the file if they came without a path.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.conversation.attachment import Attachment, attach
from fastvlm_mlx.conversation.history import Turn
from fastvlm_mlx.errors import FastVLMError, ImageError, OptionError
from fastvlm_mlx.files.atomic_write import staged_file
from fastvlm_mlx.files.read_input import read_input
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.processing.image_options import ImageOptions

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

FORMAT = "fastvlm-mlx conversation"
VERSION = 1
_LARGEST = 1 << 30  # bytes; images without a path are in it


@dataclass(frozen=True)
class Transcript:
    """All of a conversation but its KV cache.

    `opening` are the images it starts with, `waiting` those that join next.
    """

    model: str
    system: str | None
    image_options: ImageOptions
    turns: tuple[Turn, ...]
    opening: tuple[Attachment, ...] = ()
    waiting: tuple[Attachment, ...] = ()


def write(path: str | Path, transcript: Transcript):
    """Writes `path`, whole or not at all, into a folder that exists.

    Of existing files only a saved conversation and an empty file are replaced.

    Raises:
        FastVLMError: the file cannot be written, or is somebody else's.
    """
    named, path = str(path), Path(path)
    text = json.dumps(_values(transcript), ensure_ascii=False, indent=1)
    try:
        if named.endswith("/"):
            raise ValueError("names a folder")
        path = expand_user(path)
        path.parent.stat()
        if path.is_file() and not _is_saved(path):
            raise ValueError("exists and is no saved conversation")
        with staged_file(path, overwrite=True) as partial:
            # A text can hold half a surrogate pair, which UTF-8 cannot.
            partial.write_bytes(text.encode("utf-8", "replace"))
    except (OSError, ValueError, RuntimeError) as fault:
        reason = getattr(fault, "strerror", None)
        if reason is None:  # of staged_file: "PATH: reason (detail); way out"
            reason = str(fault).removeprefix(f"{path}: ").partition(";")[0]
            reason = reason.replace(" (", ", ").removesuffix(")")
        raise FastVLMError(
            f"{path}: the conversation cannot be saved ({reason}); give another path"
        ) from fault


def _is_saved(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4096).lstrip()
    return not start or (start[:1] == b"{" and f'"{FORMAT}"'.encode() in start)


def read(path: str | Path, model: "FastVLMModel") -> Transcript:
    """Reads `path` and opens its images, wherever it says they are, for `model`.

    Raises:
        FastVLMError: it is not a saved conversation.
        ImageError: an image is missing or has changed.
    """
    try:
        data = read_input(expand_user(path), _LARGEST)
        if len(data) > _LARGEST:
            raise ValueError(f"more than {_LARGEST >> 20} MB")
        values = json.loads(data.decode())
        if values["format"] != FORMAT:
            raise ValueError("of another format")
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']!r}, not {VERSION}")
        return _Reader(path, model, values).transcript()
    except OSError as fault:
        raise FastVLMError(
            f"{path}: cannot be read ({fault.strerror}); check the path"
        ) from fault
    except OptionError as fault:
        raise FastVLMError(
            f"{path}: not a saved conversation ({_short(fault)}); give a file that"
            " /save wrote"
        ) from fault
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as fault:
        kind = "no " if isinstance(fault, KeyError) else ""
        reason = _short(fault)
        raise FastVLMError(
            f"{path}: not a saved conversation ({kind}{reason}); give a file that"
            " /save wrote"
        ) from fault


def _short(fault: Exception) -> str:
    """What `fault` says, in a line: it may quote a value of any length."""
    return " ".join(str(fault).split())[:120]


def _values(transcript: Transcript) -> dict[str, Any]:
    attachments: list[Attachment] = []

    def numbers(images: Sequence[Attachment]) -> list[int]:
        for attachment in images:
            if attachment not in attachments:
                attachments.append(attachment)
        return [attachments.index(attachment) for attachment in images]

    turns = [
        {"role": turn.role, "text": turn.text, "images": numbers(turn.images)}
        if turn.role == "user"
        else {
            "role": turn.role,
            "text": turn.text,
            "tokens": list(turn.tokens),
            "finish_reason": turn.finish_reason,
        }
        for turn in transcript.turns
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": transcript.model,
        "settings": {"system": transcript.system, **asdict(transcript.image_options)},
        "turns": turns,
        "opening": numbers(transcript.opening),
        "waiting": numbers(transcript.waiting),
        "images": [_image(attachment) for attachment in attachments],
    }


def _image(attachment: Attachment) -> dict[str, str]:
    if attachment.path is not None:
        path = attachment.path
        # So that it is found from another working directory.
        path = path if "://" in path[:16] else str(expand_user(path).absolute())
        return {"path": path, "hash": attachment.digest}
    assert attachment.image is not None
    png = io.BytesIO()
    attachment.image.save(png, "PNG")
    return {
        "png": base64.b64encode(png.getvalue()).decode(),
        "hash": attachment.digest,
    }


class _Reader:
    """Checks every value on the way: the file may come from anywhere."""

    def __init__(self, path: str | Path, model: "FastVLMModel", values: dict[str, Any]):
        self._path = path
        self._model = model
        self._values = values

    def transcript(self) -> Transcript:
        values, settings = self._values, self._values["settings"]
        # Files of earlier versions say "pictures".
        key = "images" if "images" in values else "pictures"
        system = settings["system"]
        tiles = settings["tiles"]
        if tiles is not None:
            rows, columns = (_is(int, number) for number in tiles)
            tiles = rows, columns
        self._options = ImageOptions(
            _is(str, settings["fit"]), _is(int, settings["resolution"]), tiles
        )
        # All the text first: an image takes long to open.
        sketch = [self._text_of(turn) for turn in _is(list, values["turns"])]
        if [turn.role for turn in sketch] != ["user", "assistant"] * (len(sketch) // 2):
            raise ValueError("questions and answers do not take turns")
        self._images = [
            self._open(number, entry)
            for number, entry in enumerate(_is(list, values[key]), start=1)
        ]
        turns = [
            Turn(
                turn.role,
                turn.text,
                self._images_at(entry.get(key, [])),
                turn.tokens,
                turn.finish_reason,
            )
            for turn, entry in zip(sketch, values["turns"], strict=True)
        ]
        return Transcript(
            model=_is(str, values["model"]),
            system=None if system is None else _is(str, system),
            image_options=self._options,
            turns=tuple(turns),
            opening=self._images_at(values["opening"]),
            waiting=self._images_at(values["waiting"]),
        )

    def _text_of(self, turn: Any) -> Turn:
        role, text = _is(str, _is(dict, turn)["role"]), _is(str, turn["text"])
        if role == "user":
            return Turn(role, text)
        tokens = tuple(_is(int, token) for token in _is(list, turn["tokens"]))
        return Turn(role, text, (), tokens, _is(str, turn["finish_reason"]))

    def _images_at(self, numbers: Any) -> tuple[Attachment, ...]:
        if any(_is(int, number) < 0 for number in _is(list, numbers)):
            raise ValueError(f"there is no image {min(numbers)}")
        return tuple(self._images[number] for number in numbers)

    def _open(self, number: int, entry: Any) -> Attachment:
        wanted = _is(str, _is(dict, entry)["hash"])
        if "path" in entry:
            name = source = _is(str, entry["path"])
        else:
            name = f"{self._path}: image {number}"
            source = base64.b64decode(_is(str, entry["png"]), validate=True)
        attachment = attach(self._model, source, self._options)
        if attachment.digest != wanted:
            raise ImageError(
                f"{name}: not the image that the conversation was about; put the"
                f" old one back, or start a new conversation"
            )
        return attachment


def _is(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{str(value)[:40]!r} is not a {kind.__name__}")
    return value
