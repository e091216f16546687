"""Where Apple's Core AI package can be had; elsewhere its tests skip by this name."""

import importlib.util

import pytest

needs_coreai = pytest.mark.skipif(
    importlib.util.find_spec("coreai") is None,
    reason="no coreai-core for this Python and system",
)
