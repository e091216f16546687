"""Finds scenes: where a video shows something new that then stays.

A scene begins with the first frame that differs clearly from the last scene, and is
shown by the first frame in which the image has come to rest: so a slow fade is one
change and not many, and a flash is none. Where nothing comes to rest, as with a moving
camera, a frame is taken from time to time.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from fastvlm_mlx.processing.video.change import difference, drift, is_black
from fastvlm_mlx.processing.video.frame import Frame

CHANGED = 0.03  # share of cells: a new thing in the same place
CUT = 0.08  # the same, from one frame to the next
MOVED = 0.25  # the same, while nothing rests: another view
REST = 0.8  # seconds for which an image must rest, if the scene lasts as long
SHORTEST = 0.25  # seconds that a scene lasts
_RESTING = 0.7  # levels of `drift` within REST, without those of noise
_UNREST = 2.0  # seconds after which another view is taken though nothing rests
_LONG_UNREST = 10.0  # and after which any change is


def scenes(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames that show the scenes of a video; `time` is where each begins.

    Frames must be in order of time. Three of them are held at most. Black frames are
    no scene, unless there is nothing else.
    """
    shown: np.ndarray | None = None
    first: Frame | None = None
    change: _Change | None = None
    before: Frame | None = None
    for frame in frames:
        first = first or frame
        if change is not None and before is not None:
            if change.was_scene(before, frame):
                shown = before.thumbnail
                yield change.scene(before)
                change = None
            elif difference(frame.thumbnail, before.thumbnail) >= CUT:
                change = change.again(frame)
        if is_black(frame.thumbnail) or (
            shown is not None and difference(frame.thumbnail, shown) < CHANGED
        ):
            change = None
        elif change is None:
            change = _Change(frame, frame.time)
        elif change.is_over(frame, shown):
            shown = frame.thumbnail
            yield change.scene(frame)
            change = None
        before = frame
    if change is not None and before is not None:
        yield change.scene(before)
    elif shown is None and first is not None:
        yield first


class _Change:
    """What has changed since `first` and may become a scene.

    `restless` is since when nothing has come to rest, in seconds.
    """

    def __init__(self, first: Frame, restless: float):
        self._start, self._restless = first.time, restless
        self._recent = deque([(first.time, first.thumbnail)])

    def again(self, frame: Frame) -> "_Change":
        """A change that begins with `frame`, after one that came to nothing."""
        return _Change(frame, self._restless)

    def was_scene(self, last: Frame, frame: Frame) -> bool:
        """Whether what ends with `last`, before a cut to `frame`, was a scene."""
        # A slide show has one frame for each image.
        if frame.time - last.time >= REST:
            return True
        lasted = frame.time - self._start
        if lasted < SHORTEST or difference(frame.thumbnail, last.thumbnail) < CUT:
            return False
        return lasted >= REST or self._rests()

    def is_over(self, frame: Frame, shown: np.ndarray | None) -> bool:
        """Whether the image rests with `frame`, or has been restless for too long."""
        recent = self._recent
        recent.append((frame.time, frame.thumbnail))
        # The oldest that is kept is the newest from before the time of rest.
        while len(recent) > 1 and recent[1][0] <= frame.time - REST:
            recent.popleft()
        if recent[0][0] <= frame.time - REST and self._rests():
            return True
        lasted = frame.time - self._restless
        if lasted < _UNREST:
            return False
        if lasted >= _LONG_UNREST or shown is None:
            return True
        return difference(frame.thumbnail, shown) >= MOVED

    def scene(self, frame: Frame) -> Frame:
        """The frame that shows the scene, with the time of its beginning."""
        return frame.at(self._start)

    def _rests(self) -> bool:
        if len(self._recent) < 3:
            return True
        (_, last), (_, before), oldest = *list(self._recent)[:-3:-1], self._recent[0][1]
        # From one frame to the next there is little but noise, which adds in squares.
        noise, whole = drift(last, before), drift(last, oldest)
        return whole**2 - noise**2 < _RESTING**2
