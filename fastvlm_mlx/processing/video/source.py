"""Opens a video, a camera or a stream, and gives its frames with their times.

PyAV (FFmpeg) decodes. Only the containers and protocols of `access` are opened.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fastvlm_mlx.errors import VideoError
from fastvlm_mlx.processing.image_source import name_of
from fastvlm_mlx.processing.video.decoding import SEEK_AFTER, Decoder, VideoLimits
from fastvlm_mlx.processing.video.frame import Frame
from fastvlm_mlx.processing.video.opening import open_container, scheme_of


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
    """

    def __init__(
        self,
        source: str | Path | bytes,
        limits: VideoLimits,
        device: str | None,
        options: Mapping[str, str],
    ):
        self.name = name_of(source)
        if isinstance(source, bytes):
            self.name = f"video of {len(source)} bytes"
        self._container = container = open_container(
            source,
            self.name,
            device=device,
            options=options,
            frame_pixels=limits.frame_pixels,
        )
        live = device is not None or scheme_of(source) is not None
        try:
            self._decoder = Decoder(container, self.name, limits, live=live)
        except BaseException:
            self.close()
            raise
        stream = self._decoder.stream
        self.rate = self._decoder.rate
        self.size = stream.codec_context.width, stream.codec_context.height
        self.duration: float | None = None
        if device is not None:
            pass
        elif stream.duration is not None and stream.duration > 0:
            self.duration = float(stream.duration * self._decoder.base)
        elif container.duration is not None and container.duration > 0:
            self.duration = container.duration / 1_000_000

    @property
    def fault(self) -> str | None:
        """What ended the decoding early, or None; known once frames were read."""
        return self._decoder.fault

    @property
    def count(self) -> int:
        """How many frames were decoded up to now."""
        return self._decoder.count

    @property
    def position(self) -> float:
        """The time of the frame that was decoded last, in seconds."""
        return self._decoder.newest

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
        frames = self._decoder.decode(start)
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
            if frames is None or far and not self._decoder.live:
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
            if self._decoder.live:
                raise VideoError(
                    f"{self.name}: has no end that is known; use `watch`, or name the"
                    " frames by --every"
                )
            self.duration = self._decoder.last_time()
        return self.duration
