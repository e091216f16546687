"""Where the limits on the ids in a tokenizer's files lie, and what is shown of them."""

import json
from pathlib import Path

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.processing.token_ids import MAX_IDS, check_vocabulary, read_stop_ids
from fastvlm_mlx.processing.tokenizer import Tokenizer

PATH = Path("tokenizer.json")


def checked(whole: object, size: int | None = None) -> str:
    """What is wrong with a file, "" if nothing is."""
    text = whole if isinstance(whole, str) else json.dumps(whole)
    try:
        check_vocabulary(PATH, text, size)
    except CheckpointError as error:
        return str(error)
    return ""


def test_the_largest_id():
    assert MAX_IDS == 1 << 20
    assert not checked({"a": 0, "b": MAX_IDS - 1})
    assert "is 1048576, not a number from 0 to 1048575)" in checked({"a": MAX_IDS})
    for size in (MAX_IDS, 1 << 30):
        assert not checked({"a": MAX_IDS - 1}, size)
        assert "from 0 to 1048575)" in checked({"a": MAX_IDS}, size)
    assert not checked({"a": 9}, 10)
    assert "is 10, not a number from 0 to 9)" in checked({"a": 10}, 10)
    assert not checked({"a": MAX_IDS - 1}, 0) and not checked({"a": 10}, None)


def test_ids_of_two_tokens():
    said = checked({"a": 1, "b": 2, "c": 2})
    assert said == (
        "tokenizer.json: damaged (the id 2 is that of 'b' and of 'c'); download it"
        " again"
    )
    long = "x" * 100
    assert f"that of '{'x' * 59} and of 'c')" in checked({long: 0, "c": 0})


@pytest.mark.parametrize(
    ("added", "bad"),
    [
        ([{"content": "<a>", "id": 10}], False),  # they may follow the vocabulary
        ([{"content": "<a>", "id": MAX_IDS - 1}], False),
        ([{"content": "<a>", "id": MAX_IDS}], True),
        ([{"content": "<a>", "id": -1}], True),
        ([{"content": "<a>"}], False),
        (["<a>", 7, None], False),
        ({"<a>": -1}, False),
        (None, False),
    ],
)
def test_added_tokens(added, bad):
    whole = {"version": "1.0", "model": {"vocab": {"a": 0}}, "added_tokens": added}
    said = checked(whole, 10)
    assert bool(said) is bad
    assert not bad or said.startswith("tokenizer.json: damaged (the id of '<a>' is ")


@pytest.mark.parametrize(
    "whole",
    ["", "{", "[" * 10**5, [], 7, None, {}, {"version": "1.0", "a": "b"}]
    + [{"model": 7, "version": "1.0"}, {"model": {"vocab": [["a", -9.5]]}}],
)
def test_what_is_left_to_the_library(whole):
    assert checked(whole) == ""


def test_a_vocabulary_of_its_own_file():
    assert "the id of 'version' is \"x\"" not in checked({"version": "x", "a": -1})
    assert "the id of 'a' is -1, not" in checked({"a": -1})
    assert "the id of 'a' is -1, not" in checked({"model": {"vocab": {"a": -1}}})


@pytest.mark.parametrize(
    ("value", "ids"),
    [(None, []), (0, [0]), ([0], [0]), (MAX_IDS - 1, [MAX_IDS - 1]), ([], [])]
    + [([5, 0, 7], [5, 0, 7])],
)
def test_stop_ids_that_are_taken(value, ids):
    assert list(read_stop_ids(PATH, value)) == ids


@pytest.mark.parametrize("value", [MAX_IDS, -1, [0, MAX_IDS], False, [True], "0", {}])
def test_stop_ids_that_are_not(value):
    with pytest.raises(CheckpointError) as caught:
        read_stop_ids(PATH, value)
    assert str(caught.value) == (
        f"tokenizer.json: eos_token_id {json.dumps(value)} is not a token's id or a"
        " list of them; download it again"
    )


def test_long_values_are_cut():
    for length, shown in ((58, "x" * 58 + '"'), (59, "x" * 39 + "...")):
        assert f"of 'a' is \"{shown}, not a" in checked({"a": "x" * length})


def test_ids_as_bytes(mini: Tokenizer):
    spelled = {mini.token_bytes(id) for id in range(len(mini))}
    assert {bytes([byte]) for byte in range(256)} <= spelled
    assert mini.token_bytes(-1) == mini.token_bytes(1 << 32) == b""
    assert mini.token_bytes((1 << 32) - 1) == b""
    end = mini.id("<|im_end|>")
    assert end is not None and mini.token_bytes(end) == b""
    assert all(mini.token_bytes(id) for id in mini.encode("a word"))
