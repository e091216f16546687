"""Opens a container with PyAV and words what goes wrong as one line."""

import io
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastvlm_mlx.errors import VideoError, quoted
from fastvlm_mlx.files.installation import install_command
from fastvlm_mlx.files.user_path import expand_user
from fastvlm_mlx.processing.video import access

if TYPE_CHECKING:
    from av.container import InputContainer

OPEN_TIMEOUT, READ_TIMEOUT = 20.0, 30.0  # seconds that a network may be silent

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def scheme_of(source: object) -> str | None:
    """The scheme of an address in lower case; None of a path or of bytes."""
    match = _SCHEME.match(source) if isinstance(source, str) else None
    return match[1].lower() if match else None


def faults() -> tuple[type[Exception], ...]:
    """What PyAV raises on what it cannot read."""
    from av.error import FFmpegError

    return (FFmpegError, ValueError, RuntimeError, OSError)


def reason(error: Exception) -> str:
    """What FFmpeg says of a fault, without its numbers and the name of the file."""
    return quoted(getattr(error, "strerror", None) or error).rstrip(".").lower()


def open_container(
    source: str | Path | bytes,
    name: str,
    *,
    device: str | None = None,
    options: Mapping[str, str] | None = None,
    frame_pixels: int,
) -> "InputContainer":
    """The open container of a video; `name` is what to call it in messages.

    Raises:
        VideoError: it cannot be opened, or is of a kind that is not; or PyAV is
            missing.
    """
    try:
        import av
    except ImportError:
        raise VideoError(
            f"{name}: videos need PyAV; {install_command('video')}"
        ) from None

    given = {"max_pixels": str(frame_pixels), **(options or {})}
    timeout: tuple[float, float] | None = None
    place: Any
    if device is not None:
        if device not in access.DEVICES:
            known = ", ".join(access.DEVICES)
            raise VideoError(f"{name}: device {device!r:.200} is unknown; use {known}")
        place = str(source)
    elif (scheme := scheme_of(source)) is not None:
        if scheme not in access.PROTOCOLS:
            known = ", ".join(access.PROTOCOLS)
            raise VideoError(
                f"{name}: {scheme}: addresses are not opened; give a path or one of"
                f" {known}"
            )
        given = access.options(scheme) | given
        timeout = OPEN_TIMEOUT, READ_TIMEOUT
        place = source
    else:
        given = access.options(None) | given
        place = (
            _bytes(source, name) if isinstance(source, bytes) else _file(source, name)
        )
    try:
        opened = av.open(place, "r", format=device, options=given, timeout=timeout)
        return cast("InputContainer", opened)
    except faults() as error:
        raise VideoError(f"{name}: {_refusal(source, error)}") from error


def _bytes(data: bytes, name: str) -> io.BytesIO:
    if not data:
        raise VideoError(f"{name}: the file is empty; give a video")
    if kind := access.playlist(data[:1024]):
        raise _is_playlist(name, kind)
    return io.BytesIO(data)


def _file(source: str | Path, name: str) -> str:
    try:
        path = expand_user(source)
        # A pipe or a device may never end, and cannot be gone back in.
        if not stat.S_ISREG(os.stat(path).st_mode):
            what = "a folder" if path.is_dir() else "no file"
            raise VideoError(f"{name}: is {what}; give a video file")
        with path.open("rb") as file:
            head = file.read(1024)
    except FileNotFoundError:
        raise VideoError(f"{name}: no such file; check the path") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise VideoError(f"{name}: {reason(error)}; check the path") from None
    if not head:
        raise VideoError(f"{name}: the file is empty; give a video")
    if kind := access.playlist(head):
        raise _is_playlist(name, kind)
    # FFmpeg reads "concat:a|b" and the like as addresses, even of files that exist.
    return f"file:{os.path.abspath(path)}"


def _is_playlist(name: str, kind: str) -> VideoError:
    return VideoError(
        f"{name}: {kind}, which may name any file or address; give the video itself"
    )


def _refusal(source: object, error: Exception) -> str:
    from av.error import ExitError, HTTPError, InvalidDataError, TimeoutError

    said = reason(error)
    if isinstance(error, TimeoutError | ExitError):
        return f"no answer within {OPEN_TIMEOUT:g} s; check the address"
    if isinstance(error, HTTPError):
        return f"the server answered: {said}; check the address"
    if isinstance(error, InvalidDataError | ValueError):
        return (
            f"no video that is opened here ({access.NAMED}), or damaged at its start or"
            f" end ({said}); try ffmpeg -i IN -c copy OUT.mp4"
        )
    if scheme_of(source):
        return f"cannot be opened ({said}); check the address and the network"
    return f"cannot be opened ({said}); check it with another player"
