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
MOVED = 0.25  # the same, while nothing rests: another view
REST = 0.4  # seconds for which an image must rest
_RESTING = 1.5  # levels of `drift` within that time
_UNREST = 2.0  # seconds after which another view is taken though nothing rests
_LONG_UNREST = 6.0  # and after which any change is


def scenes(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames that show the scenes of a video; `time` is where each begins.

    Frames must be in order of time. Three of them are held at most. Black frames are
    no scene, unless there is nothing else.
    """
    shown: np.ndarray | None = None
    first: Frame | None = None
    waiting: _Change | None = None
    found = False
    before: Frame | None = None
    for frame in frames:
        first = first or frame
        if waiting is not None and before is not None:
            # A frame that stays as long as a scene has to is one: a slide show has one
            # frame for each image.
            if frame.time - before.time >= REST:
                found, shown = True, before.thumbnail
                yield waiting.scene(before)
                waiting = None
        if is_black(frame.thumbnail) or (
            shown is not None and difference(frame.thumbnail, shown) < CHANGED
        ):
            waiting = None
        elif waiting is None:
            waiting = _Change(frame)
        elif waiting.is_over(frame, shown):
            found, shown = True, frame.thumbnail
            yield waiting.scene(frame)
            waiting = None
        before = frame
    if waiting is not None and before is not None:
        yield waiting.scene(before)
    elif not found and first is not None:
        yield first


class _Change:
    """What has changed since `first` and may become a scene."""

    def __init__(self, first: Frame):
        self._start = first.time
        self._recent = deque([(first.time, first.thumbnail)])

    def is_over(self, frame: Frame, shown: np.ndarray | None) -> bool:
        """Whether the image rests with `frame`, or has been restless for too long."""
        recent = self._recent
        recent.append((frame.time, frame.thumbnail))
        # The oldest that is kept is the newest from before the time of rest.
        while len(recent) > 1 and recent[1][0] <= frame.time - REST:
            recent.popleft()
        if recent[0][0] > frame.time - REST:
            return False
        if drift(frame.thumbnail, recent[0][1]) < _RESTING:
            return True
        lasted = frame.time - self._start
        if lasted < _UNREST:
            return False
        if lasted >= _LONG_UNREST or shown is None:
            return True
        return difference(frame.thumbnail, shown) >= MOVED

    def scene(self, frame: Frame) -> Frame:
        """The frame that shows the scene, with the time of its beginning."""
        return frame.at(self._start)
