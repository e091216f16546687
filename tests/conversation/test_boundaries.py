"""Conversations at their edges: answers of one token, ids at the vocabulary's ends."""

from dataclasses import replace

import pytest

from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.conversation.history import History, Turn
from fastvlm_mlx.conversation.shared_prefix import _shared_prefixes
from fastvlm_mlx.generation import decode
from tests.support.mock_model import VOCABULARY, check, make_image


def test_an_answer_of_one_token_leaves_its_prompt_to_others(model):
    *_, first = Conversation(model, make_image()).stream("What is it?", max_tokens=1)
    assert first.cached_tokens == 0
    *_, second = Conversation(model, make_image()).stream("And why?", max_tokens=2)
    assert second.cached_tokens > 4


def test_only_the_first_question_is_left_to_others(model):
    conversation = Conversation(model, make_image())
    conversation.ask("What is it?", max_tokens=2)
    before = len(model.feature_cache)
    assert before == 3  # the features, and the prompt up to and before the image
    conversation.ask("And why?", max_tokens=2)
    assert len(model.feature_cache) == before


def test_the_prefixes_that_are_shared(model):
    from fastvlm_mlx.conversation.attachment import attach

    options = Conversation(model).image_options
    one, two = (attach(model, make_image(seed), options) for seed in (1, 2))
    assert list(_shared_prefixes([[1, 2], [3]])) == []
    assert list(_shared_prefixes([[1, 2], one, [3]])) == [
        (((1, 2), one.digest), 6),
        (((1, 2),), 2),
    ]
    assert list(_shared_prefixes([[1, 2], one, [3], two, [4]])) == [
        (((1, 2), one.digest, (3,), two.digest), 11),
        (((1, 2),), 2),
    ]
    # Nothing before the image: nothing to share but the image.
    assert list(_shared_prefixes([one, [3]])) == [((one.digest,), 4)]


@pytest.mark.parametrize("token", [-1, VOCABULARY, 2**40])
def test_ids_beyond_the_vocabulary_are_spelled_anew(model, token):
    state = History(model, None)
    state.replay(Turn("user", "Hi"))
    state.replay(Turn("assistant", "A cat.", (), (token,)))
    assert state.pieces[-1] == model.tokenizer.encode("A cat.")


@pytest.mark.parametrize("token", [0, VOCABULARY - 1])
def test_the_first_and_the_last_id_are_taken_over(model, token):
    text = model.tokenizer.decode([token])
    state = History(model, None)
    state.replay(Turn("user", "Hi"))
    state.replay(Turn("assistant", text, (), (token,)))
    assert state.pieces[-1] == [token]
    assert [turn.role for turn in state.turns] == ["user", "assistant"]


def test_a_question_prefills_what_the_cache_lacks(model):
    conversation = Conversation(model)
    conversation.ask("What is it?", make_image(), max_tokens=3, ignore_eos=True)
    state = conversation.state
    pieces = state.with_question("And why?", [])
    total = sum(4 if not isinstance(piece, list) else len(piece) for piece in pieces)
    kept = decode.cache_length(state.cache)
    assert state.missing(pieces).shape == (1, total - kept, 32)
    # After an interrupted step nothing is cached.
    decode.trim_cache(state.cache, 0)
    whole = state.missing(pieces)
    assert whole.shape == (1, total, 32)
    # Cut inside the image, which stands after the first piece.
    inside = len(pieces[0]) + 1 if isinstance(pieces[0], list) else 1
    fresh = History(model, None)
    for layer, old in zip(fresh.cache, state.cache, strict=True):
        layer.state = (
            old.keys[..., :inside, :],
            old.values[..., :inside, :],
            inside,
        )
    assert fresh.missing(pieces).tolist() == whole[:, inside:].tolist()


def test_what_was_cut_short_is_kept_as_cancelled(model):
    conversation = Conversation(model)
    stream = conversation.stream("Hi", max_tokens=9, ignore_eos=True)
    next(stream)
    next(stream)
    stream.close()
    assert conversation.history[-1].finish_reason == "cancelled"
    assert len(conversation.history[-1].tokens) == 2
    conversation.ask("And why?", max_tokens=3, ignore_eos=True)
    assert conversation.history[-1].finish_reason == "length"
    check(conversation)


def test_the_next_question_ends_an_open_answer(model):
    conversation = Conversation(model)
    stream = conversation.stream("Hi", max_tokens=9, ignore_eos=True)
    next(stream)
    conversation.add(make_image())
    assert [turn.finish_reason for turn in conversation.history] == [None, "cancelled"]
    assert list(stream) == []
    stream = conversation.stream("What?", max_tokens=9, ignore_eos=True)
    next(stream)
    conversation.reset()
    assert conversation.history == () and list(stream) == []


def test_turns_compare_by_what_they_say():
    turn = Turn("user", "Hi")
    assert turn == replace(turn) and turn != replace(turn, text="Ho")
    assert (turn.images, turn.tokens, turn.finish_reason) == ((), (), None)
