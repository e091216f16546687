"""Videos at their own speed: a file, an address, a camera."""

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

from fastvlm_mlx.app import terminal
from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.app.watch.shot import Shot
from fastvlm_mlx.errors import VideoError
from fastvlm_mlx.processing.video import Frame, Video, open_video

# Seconds before a stream that broke off is opened again, doubled each time.
AGAIN, AT_MOST = 2.0, 60.0


def _shot(frame: Frame) -> Shot:
    return Shot(lambda: frame.image, lambda: frame.thumbnail, position=frame.time)


class VideoSource:
    """A video file, or a video at an address, at its own speed; a stream as it comes.

    A stream, which has no length, is opened again when it breaks off.

    `start` is where to begin, in seconds.
    """

    keeps_all = False

    def __init__(self, name: str):
        self.name = name
        self.start = 0.0
        self._video: Video | None = None

    def open(self) -> None:
        self._video = self._opened()

    def shots(self, stop: Event) -> Iterator[Shot]:
        pause = AGAIN
        while not stop.is_set():
            try:
                with self._video or self._opened() as video:
                    self._video = None
                    for shot in self._paced(video, stop):
                        pause = AGAIN
                        yield shot
                    if video.duration is not None or not self._is_stream:
                        return
                    said = video.fault or "it ended"
            except VideoError as error:
                if not self._is_stream:
                    raise
                said = str(error)
            if stop.is_set():
                return
            terminal.note(f"{self.name}: {said}; opened again in {pause:g} s")
            stop.wait(pause)
            pause = min(2 * pause, AT_MOST)

    @property
    def _is_stream(self) -> bool:
        return "://" in self.name[:16]

    def _opened(self) -> Video:
        source = self.name if self._is_stream else Path(self.name)
        return open_video(source)

    def _paced(self, video: Video, stop: Event) -> Iterator[Shot]:
        begun: float | None = None
        for frame in video.frames(self.start):
            if begun is None:
                begun = time.monotonic() - frame.time
            # A live stream has its own pace, and its clock may run at another.
            if video.duration is not None or not self._is_stream:
                stop.wait(max(0.0, begun + frame.time - time.monotonic()))
            if stop.is_set():
                return
            yield _shot(frame)


class CameraSource:
    """A camera: `camera`, or `camera:1` for the second one.

    On a Mac by AVFoundation, elsewhere by Video4Linux.

    Raises:
        UsageError: the name has another form.
    """

    keeps_all = False

    def __init__(self, name: str):
        self.name = name
        number = name.partition(":")[2] or "0"
        if not re.fullmatch(r"\d{1,2}", number):
            raise UsageError(f"{name}: give camera, or camera:1 for the second one")
        self._number = int(number)
        self._video: Video | None = None

    def open(self) -> None:
        """Opens the camera.

        Raises:
            VideoError: there is none, or it may not be used.
        """
        self._video = self._opened()

    def _opened(self) -> Video:
        try:
            if sys.platform == "darwin":
                # "VIDEO:AUDIO". Most cameras of Macs give 30 frames a second, and
                # FFmpeg asks for 29.97 by itself, which they refuse.
                return open_video(
                    f"{self._number}:none",
                    device="avfoundation",
                    options={"framerate": "30"},
                )
            return open_video(f"/dev/video{self._number}", device="v4l2")
        except VideoError as error:
            if "PyAV" in str(error):
                raise
            way_out = "is there one, and may this program use it?"
            if sys.platform == "darwin":
                way_out = "let the terminal use the camera in System Settings"
            raise VideoError(
                f"{self.name}: cannot be opened ({error}); {way_out}"
            ) from error

    def shots(self, stop: Event) -> Iterator[Shot]:
        with self._video or self._opened() as video:
            self._video = None
            for frame in video.frames():
                if stop.is_set():
                    return
                yield _shot(frame)
            fault = video.fault or "no more images"
        raise VideoError(f"{self.name}: broke off ({fault}); is it still connected?")
