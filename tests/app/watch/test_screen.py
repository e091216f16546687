"""A screen and its parts, of an X server without a display."""

import threading
from typing import Any

import pytest
from PIL import Image

from fastvlm_mlx.app.watch.screen import ScreenSource
from fastvlm_mlx.errors import OptionError
from tests.support.x_screen import Screen, x_screen


def test_a_screen_and_its_parts(monkeypatch):
    with x_screen() as shown:
        monkeypatch.setenv("DISPLAY", shown.display)
        _check_parts(shown, ScreenSource)
        with pytest.raises(
            OptionError, match="screen:7: no such screen; choose 1 to 1"
        ):
            ScreenSource("screen:7", 5).open()


def _check_parts(shown: Screen, source: Any) -> None:
    image = Image.new("RGB", (320, 256), "blue")
    image.paste("red", (100, 50, 140, 80))
    shown.show(image)
    stop = threading.Event()
    whole = next(source("screen", 5).shots(stop)).image()
    assert (whole.size, whole.getpixel((120, 60))) == ((320, 256), (255, 0, 0))
    part = next(source("screen:100,50,40,30", 5).shots(stop)).image()
    assert (part.size, part.getcolors()) == ((40, 30), [(1200, (255, 0, 0))])
