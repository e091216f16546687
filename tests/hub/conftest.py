"""An empty machine for the tests of downloads."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import Hub, empty_machine


@pytest.fixture
def home(
    tmp_path: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """An empty machine whose hub is the test's `server`."""
    empty_machine(monkeypatch, tmp_path, server.url)
    yield tmp_path
    if "huggingface_hub" in sys.modules:
        sys.modules["huggingface_hub"].close_session()
