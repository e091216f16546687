"""A worker that the tests of this room share, and a folder of images."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("mcp")

if TYPE_CHECKING:
    from tests.support.mcp_tools import CountingWorker


@pytest.fixture(scope="session")
def worker(tiny: str) -> "Iterator[CountingWorker]":
    from tests.support.mcp_tools import started

    with started(tiny) as one:
        yield one


@pytest.fixture
def root(tmp_path: Path, coffee: Path) -> Path:
    """A folder with an image in it, beside a file that is none of its own."""
    folder = tmp_path / "root"
    folder.mkdir()
    shutil.copy(coffee, folder / "coffee.png")
    (tmp_path / "secret.png").write_bytes(coffee.read_bytes())
    return folder


@pytest.fixture
def server(worker: "CountingWorker", root: Path) -> Any:
    from tests.support.mcp_tools import make_server

    return make_server(worker, root)
