"""Keeps libtiff from printing what it thinks of a damaged file.

Pillow turns libtiff's warnings off but not its errors, which become exceptions and are
printed to standard error besides.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from PIL import Image


@contextmanager
def quiet_libtiff() -> Iterator[None]:
    """libtiff prints no errors meanwhile, in the whole process."""
    set_handler = _set_error_handler()
    if set_handler is None:
        yield
        return
    theirs = set_handler(None)
    try:
        yield
    finally:
        set_handler(theirs)


@cache
def _set_error_handler() -> Any:
    """`TIFFSetErrorHandler` of the libtiff that Pillow uses; None if it is hidden.

    It returns the handler before, and None for a handler turns the messages off.
    """
    try:
        # Looked up in what this library is linked with, so it is the same libtiff.
        function = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
    except (AttributeError, OSError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
    return function
