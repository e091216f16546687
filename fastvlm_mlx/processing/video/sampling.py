"""Chooses frames of a video: at scene changes, every few seconds, or a number."""

import itertools
from collections.abc import Iterable, Iterator

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.processing.video.change import ChangeDetector
from fastvlm_mlx.processing.video.frame import Frame
from fastvlm_mlx.processing.video.scene_changes import scenes
from fastvlm_mlx.processing.video.source import Video

MAX_COUNT = 10_000


def sample(
    video: Video,
    *,
    every: float | None = None,
    count: int | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[Frame]:
    """Frames of `video` that show something new, with their times, in order.

    Without `every` and `count` these are its scenes, each with the time of its
    beginning. Frames are decoded as they are asked for, and none is kept.

    Args:
        video: an open video.
        every: seconds between frames, from `start` on.
        count: the number of frames, in the middles of as many equal parts. Those that
            show nothing new are left out, here as with `every`.
        start, end: seconds; only what is shown from `start` to before `end`.
    Raises:
        OptionError: at the call, for a value that cannot be honoured.
        VideoError: while iterating, see `Video.frames`.
    """
    check(every=every, count=count, start=start, end=end)
    if count is not None:
        return _new(video.frames_at(_middles(video, count, start, end)))
    if every is not None:
        return _new(video.frames_at(_steps(every, start, end)))
    return scenes(video.frames(start, end))


def check(
    *, every: float | None, count: int | None, start: float, end: float | None
) -> None:
    """Checks the options of `sample`.

    Raises:
        OptionError: one of them cannot be honoured.
    """
    if every is not None and count is not None:
        raise OptionError("every and count: choose frames by one of them")
    if every is not None and not 0.001 <= every < float("inf"):
        raise OptionError(f"every {every:g}: must be at least 0.001 seconds")
    if count is not None and not 1 <= count <= MAX_COUNT:
        raise OptionError(f"count {count}: must be from 1 to {MAX_COUNT}")
    if not 0 <= start < float("inf"):
        raise OptionError(f"start {start:g}: must be 0 seconds or later")
    if end is not None and not end > start:
        raise OptionError(f"end {end:g}: must be after the start, {start:g} seconds")


def few(frames: Iterable[Frame], most: int) -> list[Frame]:
    """At most `most` of `frames`, evenly chosen, the first and the last among them.

    No more than twice as many are held at a time.
    """
    held: list[Frame] = []
    step, last = 1, None
    for at, last in enumerate(frames):
        if at % step == 0:
            held.append(last)
        if len(held) > 2 * most:
            held, step = held[::2], step * 2
    if last is not None and last is not held[-1]:
        held.append(last)
    if len(held) <= most or most == 1:
        return held[:most]
    steps = (len(held) - 1) / (most - 1)
    return [held[round(at * steps)] for at in range(most)]


def _middles(
    video: Video, count: int, start: float, end: float | None
) -> Iterator[float]:
    length = video.measured_duration()
    stop = length if end is None else min(end, length)
    for at in range(count):
        yield start + (at + 0.5) * max(stop - start, 0.0) / count


def _steps(every: float, start: float, end: float | None) -> Iterator[float]:
    for at in itertools.count():
        time = start + at * every
        if end is not None and time >= end:
            return
        yield time


def _new(frames: Iterable[Frame]) -> Iterator[Frame]:
    detector = ChangeDetector()
    return (frame for frame in frames if detector.is_new(frame.thumbnail))
