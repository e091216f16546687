"""Which tokens spell a text, with a tokenizer of a few tokens."""

from types import SimpleNamespace

from fastvlm_mlx.generation.vocabulary import Vocabulary

# The last two end an answer; the first of them has a text all the same.
TEXTS = [b"a", b"b", b"ab", b"", b"b", b"aba", b"bab"]
SPECIAL, ENDS = {3}, [6, 3]


def vocabulary() -> Vocabulary:
    tokenizer = SimpleNamespace(
        eos_token=3,
        eos_tokens=ENDS,
        vocab_size=len(TEXTS),
        is_special_token=lambda id: id in SPECIAL,
        decode_bytes=lambda ids: TEXTS[ids[0]],
    )
    return Vocabulary(tokenizer)


def test_the_fewest_tokens():
    found = vocabulary()
    assert found.alphabet == {ord("a"), ord("b")}
    assert found.spell(b"abab").tokens() in ([2, 2], [5, 1])
    assert found.spell(b"ababa").tokens() == [2, 5]
    assert found.spell(b"ababa").counts == (2, 2, 1, 2, 1, 0)
    assert found.spell(b"abab").tokens(3) == [1]  # the first token of that text
    assert found.spell(b"").tokens() == []


def test_a_text_of_an_end_is_not_spelled_with_it():
    spelled = vocabulary().spell(b"bab")
    assert spelled.counts[0] == 2 and 6 not in spelled.tokens()


def test_ends_and_texts():
    found = vocabulary()
    assert found.end == 3
    assert [token for token in range(7) if found.is_end(token)] == [3, 6]
    assert [found.text(token) for token in (2, 3, 6)] == [b"ab", b"", b"bab"]
    assert found._longest == 3 and b"" not in found._ids
