"""Opens a video, a camera or a stream, and gives its frames with their times.

PyAV (FFmpeg) decodes. Only the containers and protocols of `access` are opened.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.errors import VideoError
from fastvlm_mlx.processing.image_source import name_of
from fastvlm_mlx.processing.video.frame import Frame
from fastvlm_mlx.processing.video.opening import (
    faults,
    open_container,
    reason,
    scheme_of,
)

if TYPE_CHECKING:
    from av.video.stream import VideoStream

SEEK_AFTER = 10.0  # seconds of video that are decoded rather than jumped over
_MOST_BAD_PACKETS = 1000  # in a row


@dataclass(frozen=True)
class VideoLimits:
    """What a video may cost.

    - `frame_pixels`: of one frame. 8K has 33 million.
    - `pixels`: of all frames that are decoded; None is no limit.
    - `seconds`: of decoding, by the clock; None is no limit.
    """

    frame_pixels: int = 40_000_000
    pixels: int | None = None
    seconds: float | None = None


def open_video(
    source: str | Path | bytes,
    *,
    limits: VideoLimits | None = None,
    device: str | None = None,
    options: Mapping[str, str] | None = None,
) -> "Video":
    """Opens a video; close it, or use it in a `with` statement.

    Args:
        source: a path, an http, https, rtsp or rtsps address, or the bytes of a file. A
            server must not pass on addresses or paths of its clients.
        limits: what it may cost.
        device: FFmpeg's name of the system that `source` is a device of, one of
            `access.DEVICES`, as "avfoundation" or "v4l2".
        options: options of that device or of the protocol, such as "framerate".
    Raises:
        VideoError: it is none, is damaged, has no images, or is of a kind that is not
            opened; or PyAV is missing.
    """
    return Video(source, limits or VideoLimits(), device, options or {})


class Video:
    """An open video.

    - `name`: what to call it in messages.
    - `duration`: in seconds; None if it is unknown, as for a camera.
    - `rate`: frames a second on average, or None.
    - `size`: (width, height) of its frames as stored, before they are turned.
    - `fault`: what ended the decoding early, or None; known once frames were read.
    """

    def __init__(
        self,
        source: str | Path | bytes,
        limits: VideoLimits,
        device: str | None,
        options: Mapping[str, str],
    ):
        self.name = name_of(source)
        self.fault: str | None = None
        self._limits = limits
        self._decoded = 0
        self._begun = monotonic()
        self._live = device is not None or scheme_of(source) is not None
        self._container = open_container(
            source,
            self.name,
            device=device,
            options=options,
            frame_pixels=limits.frame_pixels,
        )
        try:
            self._stream = self._video_stream()
        except BaseException:
            self.close()
            raise
        stream, container = self._stream, self._container
        self._base = stream.time_base or Fraction(1, 1000)
        self._first = stream.start_time or 0
        self.rate = float(stream.average_rate or 0) or None
        self.size = stream.codec_context.width, stream.codec_context.height
        self.duration: float | None = None
        if stream.duration is not None and stream.duration > 0:
            self.duration = float(stream.duration * self._base)
        elif container.duration is not None and container.duration > 0:
            self.duration = container.duration / 1_000_000
        if self._live and device is not None:
            self.duration = None

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file or the connection."""
        self._container.close()

    def frames(self, start: float = 0.0, end: float | None = None) -> Iterator[Frame]:
        """The frames that are shown from `start` to before `end`, in seconds.

        The first is the one that is shown at `start`, with that time. Times never go
        back. After the last frame `fault` says whether the video is damaged there.

        Raises:
            VideoError: no frame can be decoded, or a limit is passed.
        """
        frames = self._decode(start)
        before: Frame | None = None
        if start > 0:
            for frame in frames:
                if frame.time > start:
                    break
                before = frame
            else:
                frame = None
            if before is not None:
                yield before.at(max(start, before.time))
            if frame is None:
                return
            if end is not None and frame.time >= end:
                return
            yield frame
        for frame in frames:
            if end is not None and frame.time >= end:
                return
            yield frame

    def frames_at(self, times: Iterable[float]) -> Iterator[Frame]:
        """The frame that is shown at each of `times`, which ascend, with that time.

        It ends with the video.

        Raises:
            VideoError: as `frames`.
        """
        frames: Iterator[Frame] | None = None
        shown: Frame | None = None
        following: Frame | None = None
        for time in times:
            far = following is not None and time > following.time + SEEK_AFTER
            if frames is None or far and self._can_seek:
                frames = self.frames(time)
                shown, following = next(frames, None), next(frames, None)
            while following is not None and following.time <= time:
                shown, following = following, next(frames, None)
            if shown is None:
                return
            yield shown.at(max(time, shown.time))
            if following is None:
                return

    def measured_duration(self) -> float:
        """`duration`, or where the last packet begins, for which all of it is read.

        Raises:
            VideoError: it has no end.
        """
        if self.duration is None:
            if not self._can_seek:
                raise VideoError(
                    f"{self.name}: has no end that is known; use `watch`, or name the"
                    " frames by --every"
                )
            last = self._first
            with suppress(faults()):
                for packet in self._container.demux(self._stream):
                    last = max(last, packet.pts or last)
            self._seek(0.0)
            self.duration = float((last - self._first) * self._base)
        return self.duration

    @property
    def _can_seek(self) -> bool:
        return not self._live

    def _video_stream(self) -> "VideoStream":
        import av

        streams = self._container.streams
        # A cover image of a song is a video stream to FFmpeg.
        cover = av.stream.Disposition.attached_pic
        found = [one for one in streams.video if not one.disposition & cover]
        if not found:
            has = "has sound but no video" if streams.audio else "has no video"
            raise VideoError(f"{self.name}: {has}; give a file with moving images")
        stream = found[0]
        context = stream.codec_context
        if context is None:
            raise VideoError(
                f"{self.name}: its codec is unknown to this FFmpeg; convert it to"
                " H.264 first"
            )
        self._check_size(context.width, context.height)
        # FFmpeg checks each frame by itself, before it takes memory for it.
        context.options = {"max_pixels": str(self._limits.frame_pixels)}
        if self._live:
            context.thread_type = "SLICE"  # whole frames in advance are a delay
        else:
            context.thread_type = "AUTO"
        context.thread_count = min(4, os.cpu_count() or 1)
        return stream

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.frame_pixels:
            most = self._limits.frame_pixels / 1e6
            raise VideoError(
                f"{self.name}: frames of {width}x{height} pixels, more than {most:g}"
                " megapixels; scale it down first"
            )

    def _seek(self, start: float) -> None:
        offset = self._first + int(start / self._base)
        with suppress(faults()):
            self._container.seek(offset, stream=self._stream)

    def _decode(self, start: float) -> Iterator[Frame]:
        """All frames from the last key frame before `start` on, in order of time."""
        if start > SEEK_AFTER and self._can_seek:
            self._seek(start)
            frames = self._read()
            first = next(frames, None)
            if first is not None and first.time <= start:
                yield first
                yield from frames
                return
            frames.close()
        if self._can_seek and self._decoded:
            self._seek(0.0)
        yield from self._read()

    def _read(self) -> "Iterator[Frame]":
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
        aspect = self._stream.codec_context.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, 4) <= aspect <= 4:
            aspect = Fraction(1)
        time, step = -1.0, 1 / (self.rate or 25.0)
        for decoded in self._pictures():
            stamp = decoded.pts
            if stamp is None:
                time = max(0.0, time + step)
            else:
                time = max(time, 0.0, float((stamp - self._first) * self._base))
            yield Frame(decoded, time, reformatter, aspect)
        if not self._decoded:
            fault = f" ({self.fault})" if self.fault else ""
            raise VideoError(
                f"{self.name}: no frame can be decoded{fault}; it is damaged or empty"
            )

    def _pictures(self) -> Iterator[Any]:
        """The decoder's frames; a damaged packet is left out."""
        from av.error import InvalidDataError

        limits, bad = self._limits, 0
        packets = self._container.demux(self._stream)
        failures = faults()
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                pictures = packet.decode()
                bad = 0
            except failures as error:
                self.fault = reason(error)
                bad += 1
                # The reader itself has failed, and not the decoder of one packet.
                damaged = isinstance(error, InvalidDataError)
                if not damaged or bad > _MOST_BAD_PACKETS:
                    return
                continue
            for picture in pictures:
                self._check_size(picture.width, picture.height)
                self._decoded += picture.width * picture.height
                yield picture
            if limits.pixels is not None and self._decoded > limits.pixels:
                raise VideoError(
                    f"{self.name}: more than {limits.pixels / 1e6:g} megapixels in all"
                    " its frames; cut or scale it first"
                )
            if limits.seconds is not None:
                if monotonic() - self._begun > limits.seconds:
                    raise VideoError(
                        f"{self.name}: not decoded within {limits.seconds:g} s; cut or"
                        " scale it first"
                    )
