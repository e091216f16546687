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


@pytest.mark.parametrize(
    "following, is_value",
    [
        ("2GB", True),
        ("1.5 MB", True),
        ("500mb", True),
        ("photo.png", False),
        ("2", False),
        ("2GB.png", False),
        ("-p", False),
    ],
)
def test_a_size_is_told_from_an_image(following: str, is_value: bool):
    typed = ["chat", "--keep-features", following]
    usual = ["chat", "--keep-features=1GB", following]
    assert with_values(typed) == (typed if is_value else usual)
