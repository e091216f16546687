"""Decodes a video's frames from any time on, within limits, past damaged packets."""

import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from PIL import Image

from fastvlm_mlx.errors import VideoError
from fastvlm_mlx.processing.video.frame import Frame, turn_of
from fastvlm_mlx.processing.video.opening import faults, reason

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

SEEK_AFTER = 10.0  # seconds of video that are decoded rather than jumped over
_MOST_BAD_PACKETS = 1000  # in a row
_NO_FRAME_YET = 0.005  # seconds


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


class Decoder:
    """Decodes the first video stream of an open container.

    `live` says that it cannot be gone back in, and that its newest frames matter.
    `fault` is what ended the decoding, or None; `count` frames were decoded up to now,
    `newest` is the time of the last one.

    Raises:
        VideoError: there is no video in it, or its frames are too large.
    """

    def __init__(
        self,
        container: "InputContainer",
        name: str,
        limits: VideoLimits,
        *,
        live: bool,
    ):
        self.fault: str | None = None
        self.live = live
        self._name, self._limits = name, limits
        self._container = container
        self.stream = self._video_stream()
        self.base = self.stream.time_base or Fraction(1, 1000)
        self._first = self.stream.start_time or 0
        self.rate = float(self.stream.average_rate or 0) or None
        self._decoded = 0  # pixels
        self.count, self.newest = 0, 0.0  # frames, and the time of the last one
        self._begun = monotonic()

    def decode(self, start: float) -> Generator[Frame, None, None]:
        """All frames from the last key frame before `start` on, in order of time.

        Raises:
            VideoError: no frame can be decoded, or a limit is passed.
        """
        if start > SEEK_AFTER and not self.live:
            self._seek(start)
            frames = self._read()
            first = next(frames, None)
            if first is not None and first.time <= start:
                yield first
                yield from frames
                return
            frames.close()
        if not self.live and self._decoded:
            self._seek(0.0)
        yield from self._read()

    def last_time(self) -> float:
        """Where the last packet begins, in seconds; all of the file is read."""
        last = self._first
        with suppress(*faults()):
            for packet in self._container.demux(self.stream):
                last = max(last, packet.pts or last)
        self._seek(0.0)
        return float((last - self._first) * self.base)

    def _read(self) -> Generator[Frame, None, None]:
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
        aspect = self.stream.codec_context.sample_aspect_ratio or Fraction(1)
        if not Fraction(1, 4) <= aspect <= 4:
            aspect = Fraction(1)
        time, step = -1.0, 1 / (self.rate or 25.0)
        turns: dict[int, Image.Transpose | None] = {}
        for decoded in self._pictures():
            stamp = decoded.pts
            if stamp is None:
                time = max(0.0, time + step)
            else:
                time = max(time, 0.0, float((stamp - self._first) * self.base))
            # By its angle: it hardly ever changes within a video.
            if decoded.rotation not in turns:
                turns[decoded.rotation] = turn_of(decoded)
            turn = turns[decoded.rotation]
            self.count, self.newest = self.count + 1, time
            yield Frame(decoded, time, reformatter, aspect, turn)
        if not self._decoded:
            fault = f" ({self.fault})" if self.fault else ""
            most = self._limits.frame_pixels / 1e6
            raise VideoError(
                f"{self._name}: no frame can be decoded{fault}; it is damaged, empty or"
                f" has frames of more than {most:g} megapixels"
            )

    def _pictures(self) -> Iterator[Any]:
        """The decoder's frames; a damaged packet is left out."""
        from av.error import InvalidDataError

        limits, bad = self._limits, 0
        packets = self._container.demux(self.stream)
        failures = faults()
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                pictures = packet.decode()
                bad, self.fault = 0, None
            except BlockingIOError:
                # No frame yet, as the camera of a Mac says it; this iterator has ended.
                sleep(_NO_FRAME_YET)
                packets = self._container.demux(self.stream)
                continue
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
                    f"{self._name}: more than {limits.pixels / 1e6:g} megapixels in all"
                    " its frames; cut or scale it first"
                )
            if limits.seconds is not None:
                if monotonic() - self._begun > limits.seconds:
                    raise VideoError(
                        f"{self._name}: not decoded within {limits.seconds:g} s; cut or"
                        " scale it first"
                    )

    def _seek(self, start: float) -> None:
        offset = self._first + int(start / self.base)
        with suppress(*faults()):
            self._container.seek(offset, stream=self.stream)

    def _video_stream(self) -> "VideoStream":
        from av.stream import Disposition

        streams = self._container.streams
        # A cover image of a song is a video stream to FFmpeg.
        cover = Disposition.attached_pic
        found = [one for one in streams.video if not one.disposition & cover]
        if not found:
            has = "has sound but no video" if streams.audio else "has no video"
            raise VideoError(f"{self._name}: {has}; give a file with moving images")
        stream = found[0]
        context = stream.codec_context
        if context is None:
            raise VideoError(
                f"{self._name}: its codec is unknown to this FFmpeg; convert it to"
                " H.264 first"
            )
        self._check_size(context.width, context.height)
        # FFmpeg checks each frame by itself, before it takes memory for it.
        context.options = {"max_pixels": str(self._limits.frame_pixels)}
        if self.live:
            context.thread_type = "SLICE"  # whole frames in advance are a delay
        else:
            context.thread_type = "AUTO"
        context.thread_count = min(4, os.cpu_count() or 1)
        return stream

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.frame_pixels:
            most = self._limits.frame_pixels / 1e6
            raise VideoError(
                f"{self._name}: frames of {width}x{height} pixels, more than {most:g}"
                " megapixels; scale it down first"
            )
