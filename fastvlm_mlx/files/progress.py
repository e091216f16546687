"""Progress: the callback of functions that read or write large files."""

from collections.abc import Callable

# Called with (bytes done, bytes in all).
Progress = Callable[[int, int], None]
