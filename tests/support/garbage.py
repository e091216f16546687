"""A pytest plugin: a search for garbage passes over what was imported and collected.

All that stays to the end, and with some thousand tests a search walks it for half a
second; the server and the export to Core ML ask for many.
"""

import gc
from collections.abc import Generator

import pytest


class Garbage:
    """The plugin."""

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        gc.disable()  # until all is there: nearly all of it stays
        try:
            return (yield)
        finally:
            gc.enable()
            gc.collect()
            gc.freeze()

    @pytest.hookimpl(tryfirst=True)
    def pytest_terminal_summary(self) -> None:
        """Hypothesis, which its plugin imports now, looks for an object's referrers."""
        gc.unfreeze()
