"""The names, shapes and dtypes of weights are checked before a model takes them."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.model.parameters import check_tensors
from tests.support.mock_model import MockModel

NORM = "language_model.model.norm.weight"
FLAT: Any = tree_flatten(MockModel().parameters())


def given(**changes: mx.array) -> dict[str, mx.array]:
    return dict(FLAT) | changes


def without(name: str) -> dict[str, mx.array]:
    return {other: array for other, array in FLAT if other != name}


def test_its_own_parameters_fit():
    check_tensors(MockModel(), given())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: without(NORM), rf"^tensor {NORM} is missing \(1 such\); the check"),
        (
            lambda: given(one=mx.zeros(1), other=mx.zeros(1)),
            r"^tensor one is not part of this model \(2 such\); the checkpoint is inc",
        ),
        (
            lambda: given(**{NORM: mx.zeros(31)}),
            rf"^tensor {NORM} has shape \(31,\) where \(32,\) is needed; the checkpo",
        ),
        (
            lambda: given(**{NORM: mx.zeros(32, mx.int32)}),
            rf"^tensor {NORM} is of dtype mlx.core.int32, not of floating point; get",
        ),
    ],
)
def test_other_tensors_are_named(make: Callable[[], dict[str, mx.array]], message: str):
    with pytest.raises(CheckpointError, match=message):
        check_tensors(MockModel(), make())
