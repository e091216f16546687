"""Options that may stand without a value."""

import pytest

from fastvlm_mlx.app.optional_values import with_values


@pytest.mark.parametrize(
    "typed, understood",
    [
        (["mcp", "--http"], ["mcp", "--http=127.0.0.1:8080"]),
        (["mcp", "--http", "9000"], ["mcp", "--http", "9000"]),
        (["mcp", "--http=9000"], ["mcp", "--http=9000"]),
        (
            ["mcp", "--http", "--root", "x"],
            ["mcp", "--http=127.0.0.1:8080", "--root", "x"],
        ),
        (["chat", "--", "--http"], ["chat", "--", "--http"]),
        ([], []),
    ],
)
def test_the_usual_value_is_filled_in(typed: list[str], understood: list[str]):
    assert with_values(typed) == understood
