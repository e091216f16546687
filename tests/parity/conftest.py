"""How PyTorch runs here."""

# The parity group is not installed everywhere.
# pyright: reportMissingImports=false
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def one_thread_and_no_gradients() -> Iterator[None]:
    """The networks are so small that a second thread only waits."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
