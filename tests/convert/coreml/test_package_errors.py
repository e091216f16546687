"""The one line that any fault of a package ends in."""

from pathlib import Path

import pytest

from fastvlm_mlx.convert.coreml.package_errors import package_errors
from fastvlm_mlx.errors import CheckpointError, OptionError

PLACE = Path("x.mlpackage")


def told(error: Exception) -> str:
    with pytest.raises(CheckpointError) as caught, package_errors(PLACE):
        raise error
    return str(caught.value)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (ValueError("a\n b"), "a b"),
        (ValueError("a\x07b"), "a?b"),
        (ValueError(), "ValueError"),
        (KeyError("w"), "no 'w'"),
        (MemoryError("x"), "needs more memory than there is"),
        (IsADirectoryError(21, "Is a directory"), "is a directory"),
        (ValueError("a" * 160), "a" * 160),
        (ValueError("a" * 160 + "b"), "a" * 160 + "..."),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_any_fault(error: Exception, what: str):
    assert told(error) == (
        f"{PLACE}: not a Core ML package this program can read ({what});"
        " export it again"
    )


def test_our_own_errors_pass():
    assert told(CheckpointError("has no x")) == f"{PLACE}: has no x"
    assert told(CheckpointError(f"{PLACE}: has no x")) == f"{PLACE}: has no x"
    with pytest.raises(OptionError, match="^as it is$"), package_errors(PLACE):
        raise OptionError("as it is")
