"""How attention's queries are cut into chunks."""

from typing import Any

import pytest

from fastvlm_mlx.convert.coreml.mil_attention import _chunks


class Builder:
    """Records what is asked of coremltools' builder."""

    def split(self, x: str, split_sizes: list[int], axis: int) -> list[Any]:
        assert (x, axis) == ("queries", 3)
        return split_sizes


@pytest.mark.parametrize(
    ("tokens", "chunk", "sizes"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 4, 1]),
        (8, 4, [4, 4]),
        (5, 4, [4, 1]),
        (3, 1, [1, 1, 1]),
        (4, 3, [3, 1]),
    ],
)
def test_every_query_is_in_a_chunk(tokens: int, chunk: int, sizes: list[int]):
    assert _chunks(Builder(), "queries", tokens, chunk) == sizes


@pytest.mark.parametrize("chunk", [None, 10, 11])
def test_queries_that_fit_are_not_cut(chunk: int | None):
    assert _chunks(Builder(), "queries", 10, chunk) == ["queries"]
