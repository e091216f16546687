"""How errors quote what libraries and files say."""

import pytest

from fastvlm_mlx.errors import FastVLMError, quoted


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (ValueError("a  b\n c"), "a b c"),
        (ValueError(""), "ValueError"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 150 + "..." + "x" * 47),
        (KeyError("a" * 300 + "b" * 300), "'" + "a" * 149 + "..." + "b" * 46 + "'"),
    ],
)
def test_quotes_are_one_short_line(fault: object, text: str):
    assert quoted(fault) == text
    assert len(quoted(fault)) <= 200


def test_messages_are_one_line_that_drives_no_terminal():
    assert str(FastVLMError("a\nb\x1b[2Jc\x00")) == r"a b\x1b[2Jc\x00"
    assert str(FastVLMError("x" * 10_000)) == "x" * 10_000
    long = str(FastVLMError("x" * 9_800 + "y" * 500))
    assert long == "x" * 9_700 + " ... " + "y" * 300
