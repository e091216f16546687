"""Stop sequences in text that comes piece by piece: what is held back, and when."""

from typing import cast

import pytest

from fastvlm_mlx.generation.stop_sequences import StopSequenceMatcher
from fastvlm_mlx.processing.tokenizer import TextStream


class Pieces:
    """A decoder whose ids are places in a list of texts."""

    def __init__(self, pieces: list[str], rest: str = ""):
        self._pieces = pieces
        self._rest = rest

    def push(self, id: int) -> str:
        return self._pieces[id]

    def finish(self) -> str:
        return self._rest


def shown(stop: tuple[str, ...], *pieces: str, rest: str = "") -> tuple[list[str], str]:
    """What each piece shows, and what the end shows; `!` marks the stop."""
    matcher = StopSequenceMatcher(cast(TextStream, Pieces([*pieces], rest)), stop)
    texts = []
    for id in range(len(pieces)):
        texts.append(matcher.push(id) + "!" * matcher.stopped)
        if matcher.stopped:
            return texts, ""
    return texts, matcher.finish() + "!" * matcher.stopped


@pytest.mark.parametrize(
    ("stop", "pieces", "texts", "end"),
    [
        ((), ["ab", "c"], ["ab", "c"], ""),
        # All but the last character of a stop sequence may be held, and no more.
        (("END",), ["aE", "N", "x"], ["a", "", "ENx"], ""),
        (("END",), ["aEN", "D", "x"], ["a", "!"], ""),
        (("END",), ["EN", "EN", "D"], ["", "EN", "!"], ""),
        (("END",), ["xEND", "y"], ["x!"], ""),
        (("END",), ["aE"], ["a"], "E"),
        (("a",), ["b", "ca"], ["b", "c!"], ""),
        # The longest beginning of any of them.
        (("XY", "aXb"), ["aX"], [""], "aX"),
        (("XY", "aXb"), ["aX", "Y"], ["", "a!"], ""),
        (("aab",), ["aaa", "b"], ["a", "!"], ""),
        # The one that begins first in the text, wherever it stands in the list.
        (("c", "b"), ["abc"], ["a!"], ""),
        (("b", "c"), ["acb"], ["a!"], ""),
        (("abc", "b"), ["abc"], ["!"], ""),
        (("",), ["x"], ["!"], ""),
    ],
)
def test_what_is_shown_when(stop, pieces, texts, end):
    assert shown(stop, *pieces) == (texts, end)


def test_the_rest_of_a_character_comes_with_the_end():
    assert shown(("EN?",), "aE", rest="\ufffd") == (["a"], "E\ufffd")
    assert shown(("E\ufffd",), "aE", rest="\ufffd") == (["a"], "!")


def test_nothing_is_held_after_a_stop():
    pieces = Pieces(["EN", "D"])
    matcher = StopSequenceMatcher(cast(TextStream, pieces), ("END",))
    assert (matcher.push(0), matcher.push(1), matcher.finish()) == ("", "", "")
    assert matcher.stopped


@pytest.mark.parametrize(
    ("stop", "piece", "matched"),
    [
        (("c", "b"), "abc", "b"),
        (("b", "bc"), "abc", "b"),
        (("bc", "b"), "abc", "bc"),
        (("x",), "abc", None),
    ],
)
def test_which_one_it_was(stop, piece, matched):
    matcher = StopSequenceMatcher(cast(TextStream, Pieces([piece])), stop)
    matcher.push(0)
    assert matcher.matched == matched
