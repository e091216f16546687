"""Images that are in no file: the clipboard's and the screen's, on a Mac.

Pillow asks the tools of macOS for them: `osascript` for the clipboard, `screencapture
-x` for the screen. Neither was ever run by the authors on a Mac; the tests have
stand-ins for both.
"""

import subprocess
import sys

from PIL import Image

from fastvlm_mlx.errors import ImageError, quoted


def clipboard() -> Image.Image:
    """The image that was copied last.

    Raises:
        ImageError: this is no Mac, or the clipboard holds no image.
    """
    _need_a_mac("--clipboard", "paste the image into a file and give that")
    from PIL import ImageGrab

    try:
        found = ImageGrab.grabclipboard()
    except Exception as error:  # Pillow's readers raise many kinds; a tool is missing
        raise ImageError(
            f"clipboard: cannot be read ({quoted(error)}); save the image as a file"
        ) from error
    if not isinstance(found, Image.Image):
        raise ImageError(
            "clipboard: holds no image; copy one, or press Ctrl-Shift-Command-4"
        )
    return found


def screen() -> Image.Image:
    """What the main screen shows now.

    Raises:
        ImageError: this is no Mac, or it does not let this program see the screen.
    """
    _need_a_mac("--screen", "take a screenshot and give its file")
    from PIL import ImageGrab

    try:
        return ImageGrab.grab()
    except (OSError, ValueError, SyntaxError, subprocess.SubprocessError) as error:
        raise ImageError(
            f"screen: cannot be captured ({quoted(error)}); let the terminal record the"
            " screen in System Settings, Privacy & Security"
        ) from error


def _need_a_mac(option: str, way_out: str) -> None:
    if sys.platform != "darwin":
        raise ImageError(f"{option}: works on a Mac alone; {way_out}")
