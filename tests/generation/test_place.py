"""The place in a JSON text that is being written, and bytes that may come next."""

import pytest

pytest.importorskip("llguidance")

from fastvlm_mlx.generation.byte_matcher import (  # noqa: E402
    allowed_bytes,
    byte_matcher,
    takes,
)
from fastvlm_mlx.generation.completion import Place  # noqa: E402
from fastvlm_mlx.generation.json_schema import grammar_of  # noqa: E402
from fastvlm_mlx.generation.string_completion import preferred  # noqa: E402


@pytest.mark.parametrize(
    ("text", "place", "least"),
    [
        (b"", Place(), 0),
        (b"{", Place(b"{", (0,)), 1),
        (b'{"a', Place(b"{", (0,), b'"a', 1), 2),
        (b'{"a\\', Place(b"{", (0,), b'"a\\', 2), 2),
        (b'{"a\\"', Place(b"{", (0,), b'"a\\"', 1), 2),
        (b'{"a\\\\', Place(b"{", (0,), b'"a\\\\', 1), 2),
        (b'{"a"', Place(b'{"a"', (0,)), 1),
        (b'{"a":', Place(b'{"a":', (0,)), 1),
        (b'{"a": ', Place(b'{"a":', (0,)), 1),
        (b'{"a":1', Place(b'{"a":', (0,), b"1"), 1),
        (b'{"a":1,', Place(b'{"a":v,', (0,)), 1),
        (b'{"a":1,"b"', Place(b'{"a":v,"b"', (0,)), 1),
        (b'{"a":"x"', Place(b'{"a":v', (0,)), 1),
        (b'{"a":"x",', Place(b'{"a":v,', (0,)), 1),
        (b'{"a":[', Place(b'{"a":[', (0, 5)), 2),
        (b'{"a":["x"', Place(b'{"a":[v', (0, 5)), 2),
        (b'{"a":["x",true', Place(b'{"a":[v,', (0, 5), b"true"), 2),
        (b'{"a":["x",true]', Place(b'{"a":v', (0,)), 1),
        (b'{"a":[{}', Place(b'{"a":[v', (0, 5)), 2),
        (b'{"a":[]}', Place(b"v"), 0),
        (b'"x"', Place(b"v"), 0),
        (b'"x', Place(b"", (), b'"x', 1), 1),
        (b'["{', Place(b"[", (0,), b'"{', 1), 2),
        (b"-1.5", Place(b"", (), b"-1.5"), 0),
    ],
)
def test_places(text, place, least):
    assert Place().after(text) == place
    assert place.least == least
    # However it was cut.
    for at in range(len(text)):
        assert Place().after(text[:at]).after(text[at:]) == place


def test_bytes_that_may_come_next():
    matcher = byte_matcher(grammar_of({"enum": ["ab", "ac"]}))
    assert allowed_bytes(matcher) == {ord('"')}
    assert takes(matcher, b'"a')
    assert allowed_bytes(matcher) == {ord("b"), ord("c")}
    assert not takes(matcher, b"bc") and not takes(matcher, b"x")
    anything = byte_matcher(grammar_of({"type": "string"}))
    assert takes(anything, b'"')
    inside = allowed_bytes(anything)
    # Bytes of UTF-8 up to the largest that begins a character; no control characters.
    assert {0x20, ord('"'), ord("\\"), 0x7E, 0xC3, 0xF0} <= inside
    assert not inside & {0x00, 0x1F, 0x80, 0xFF}


def test_plain_characters_are_preferred():
    order = preferred(frozenset(range(256)))
    assert sorted(order) == list(range(256))
    assert bytes(order[:8]) == b"aA0 _-.@"
    assert order[8:11] == [0, 1, 2] and order[-131] == 0x7F
    assert order[-130:] == [*b'\\"', *range(128, 256)]
    assert preferred(frozenset()) == []
    assert preferred(frozenset(b"\\a")) == [ord("a"), ord("\\")]
