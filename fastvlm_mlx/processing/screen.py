"""An image of the screen, on a Mac, by the program `screencapture` that macOS has.

Written after its manual page; not run on a Mac yet.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from fastvlm_mlx.errors import ImageError
from fastvlm_mlx.processing.image_source import one_line

_PROGRAM = "/usr/sbin/screencapture"
_SECONDS = 20


def is_available() -> bool:
    """Whether this is a Mac."""
    return sys.platform == "darwin"


def capture() -> bytes:
    """The main screen as the bytes of a PNG file, without sound or cursor.

    Raises:
        ImageError: this is no Mac, or macOS does not allow it.
    """
    if not is_available():
        raise ImageError("screen: can only be captured on a Mac; give an image file")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "screen.png"
        # -x no sound, -m the main screen only
        command = [_PROGRAM, "-x", "-m", "-t", "png", str(file)]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
            )
            data = file.read_bytes() if file.exists() else b""
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ImageError(f"screen: {one_line(error)}; try again") from None
    if done.returncode or not data:
        fault = one_line(done.stderr.decode("utf-8", "replace").strip() or "no image")
        raise ImageError(
            f"screen: cannot be captured ({fault}); allow it in System Settings,"
            " Privacy & Security, Screen Recording"
        )
    return data
