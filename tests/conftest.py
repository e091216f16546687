"""Where tests find what lies outside the checkout."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.serving import Running

# A shell that starts the tests in the background has Ctrl-C ignored, and children
# inherit that; some tests interrupt theirs.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared folder: pictures, reference checkpoints, the tokenizer."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED.name} folder beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def reference(shared: Path) -> Path:
    """The reference checkpoints, one folder per layout."""
    folder = shared / "reference"
    if not folder.is_dir():
        pytest.skip("no reference checkpoints in the shared folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test reads or writes the conversions that the user of this machine has."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTVLM_CACHE", str(cache))
        yield cache


@pytest.fixture(scope="session")
def server(reference: Path) -> "Iterator[Running]":
    """`fastvlm-mlx serve` with the tiny model, without a token."""
    pytest.importorskip("starlette")
    from tests.serving import running

    with running(reference / "llava-mini") as started:
        yield started
