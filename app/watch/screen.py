"""A screen, or a part of it, by mss."""

import re
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

from PIL import Image

from fastvlm_mlx.app.session import UsageError
from fastvlm_mlx.app.watch.shot import Shot
from fastvlm_mlx.errors import OptionError, quoted
from fastvlm_mlx.files.installation import install_command

_FORM = "screen, screen:2 or screen:LEFT,TOP,WIDTH,HEIGHT"


class ScreenSource:
    """What a screen shows, `rate` times a second.

    Args:
        name: `screen`, `screen:2` or `screen:LEFT,TOP,WIDTH,HEIGHT` in pixels.
        rate: how often it is looked at.
    Raises:
        UsageError: the name has another form.
    """

    keeps_all = False

    def __init__(self, name: str, rate: float):
        self.name, self._rate = name, rate
        which = name.partition(":")[2]
        parts = re.fullmatch(r"(\d{1,3})|(-?\d+),(-?\d+),(\d+),(\d+)", which)
        if which and parts is None:
            raise UsageError(f"{name}: give {_FORM}")
        self._number, self._area = 1, None
        if parts and parts[1]:
            self._number = int(parts[1])
        elif parts:
            left, top, width, height = map(int, parts.groups()[1:])
            if not width or not height:
                raise UsageError(f"{name}: the part has no pixels; give {_FORM}")
            self._area = {"left": left, "top": top, "width": width, "height": height}

    def open(self) -> None:
        """Looks once.

        Raises:
            OptionError: mss is missing, or there is no such screen.
        """
        with _screens() as screens:
            self._grab(screens)

    def shots(self, stop: Event) -> Iterator[Shot]:
        with _screens() as screens:
            while not stop.is_set():
                begun = time.monotonic()
                yield Shot.of_image(self._grab(screens))
                stop.wait(max(0.0, begun + 1 / self._rate - time.monotonic()))

    def _grab(self, screens: Any) -> Image.Image:
        import mss

        monitors = screens.monitors
        if self._area is None and not 1 <= self._number < len(monitors):
            count = len(monitors) - 1
            raise OptionError(f"{self.name}: no such screen; choose 1 to {count}")
        try:
            seen = screens.grab(self._area or monitors[self._number])
        except (mss.ScreenShotError, ValueError, OSError) as error:
            raise _unseen(self.name, error) from error
        return Image.frombytes("RGB", seen.size, seen.bgra, "raw", "BGRX")


def _screens() -> Any:
    try:
        # Imported here: an extra.
        import mss
    except ImportError:
        raise OptionError(f"screen: needs mss; {install_command('video')}") from None
    try:
        return mss.mss() if not hasattr(mss, "MSS") else mss.MSS()
    except (mss.ScreenShotError, OSError) as error:
        raise _unseen("screen", error) from error


def _unseen(name: str, error: Exception) -> OptionError:
    return OptionError(
        f"{name}: cannot be captured ({quoted(error)}); on a Mac let the terminal"
        " record the screen in System Settings, on Linux set DISPLAY to an X server"
    )
