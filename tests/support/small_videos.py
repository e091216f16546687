"""Small videos of scenes of the demo's world, written with PyAV."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream

from training import drawing, world

TICKS = 1000  # of a video's clock, a second


def scene_images(count: int, *, shapes: int = 2, first: int = 0) -> list[np.ndarray]:
    """Images of `count` scenes with exactly `shapes` shapes: (256, 256, 3) uint8."""
    return [drawing.render(scene) for scene in world_scenes(count, shapes, first)]


def world_scenes(count: int, shapes: int = 2, first: int = 0) -> list[world.Scene]:
    """`count` scenes with exactly `shapes` shapes, from the seed `first` on."""
    found: list[world.Scene] = []
    seed = first
    while len(found) < count:
        scene = world.sample(seed, "shapes")
        if len(scene.shapes) == shapes:
            found.append(scene)
        seed += 1
    return found


def stills(
    images: Sequence[np.ndarray], seconds: float, rate: int = 10
) -> Iterator[tuple[float, np.ndarray]]:
    """Frames with times: each image for `seconds`."""
    per = round(seconds * rate)
    for at, image in enumerate(images):
        for step in range(per):
            yield (at * per + step) / rate, image


def write_video(
    path: Path | str,
    frames: Iterable[tuple[float, np.ndarray]],
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] | None = None,
    rotation: float | None = None,
    mirrored: bool = False,
    aspect: Fraction | None = None,
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Writes frames, RGB with their times in seconds; returns the path.

    `rotation` is the display matrix's, in degrees counter-clockwise.
    """
    path = Path(path)
    with av.open(str(path), "w") as container:
        stream, audio = None, None
        for time, image in frames:
            if stream is None:
                height, width = image.shape[:2]
                stream = cast(VideoStream, container.add_stream(codec, rate=25))
                stream.width, stream.height = size or (width, height)
                stream.pix_fmt = pixels
                stream.codec_context.time_base = Fraction(1, TICKS)
                fast = {"preset": "ultrafast"} if codec.startswith("libx26") else {}
                if codec == "libx265":
                    fast["x265-params"] = "log-level=none"
                stream.codec_context.options = fast | (options or {})
                if aspect is not None:
                    stream.codec_context.sample_aspect_ratio = aspect
                if rotation is not None:
                    stream.set_display_rotation(rotation, mirrored)
                if sound:
                    audio = container.add_stream("aac", rate=8000)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image))
            frame.pts, frame.time_base = round(time * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode())
        if audio is not None:
            _write_sound(container, audio)
    return path


def write_sound(path: Path) -> Path:
    """Writes a file with sound alone."""
    with av.open(str(path), "w") as container:
        _write_sound(container, container.add_stream("aac", rate=8000))
    return path


def _write_sound(container: Any, stream: Any) -> None:
    samples = np.zeros((1, 8000), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
