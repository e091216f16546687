"""A running `fastvlm-mlx serve` for the tests of its end."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.serve_process import Program


@pytest.fixture
def served() -> "Iterator[Program]":
    """The program, which is stopped after the test."""
    from tests.support.serve_process import serving

    with serving() as program:
        yield program
