"""A question may take the context to its last position, and none beyond."""

from dataclasses import replace

import pytest

from fastvlm_mlx.conversation.answer import answer_room
from fastvlm_mlx.conversation.batch import batch_generate
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.errors import ContextError, OptionError
from tests.support.mock_model import check, make_image


class Refuses:
    """A constraint that finds no room, as a JSON schema of many tokens does."""

    def choose(self, logits, draw, left):
        raise OptionError(f"max_tokens {left}: too few")

    def allowed(self, logits):
        return logits


@pytest.mark.parametrize(
    ("question", "used", "size", "room"),
    [(9, 0, 10, 1), (1, 0, 10, 9), (9, 4, 10, 1), (5, 4, 10, 5), (4, 4, 10, 6)],
)
def test_room_for_an_answer(question: int, used: int, size: int, room: int):
    """`question` counts all positions, `used` of which are in the context."""
    assert answer_room([[7] * question], used, size) == room


@pytest.mark.parametrize(
    ("question", "used", "size", "said"),
    [
        (10, 0, 10, "needs 11 tokens of context and 10 of 10"),
        (10, 4, 10, "needs 7 tokens of context and 6 of 10"),
        (12, 11, 10, "needs 2 tokens of context and 0 of 10"),
    ],
)
def test_no_room_for_an_answer(question: int, used: int, size: int, said: str):
    with pytest.raises(ContextError, match=said):
        answer_room([[7] * question], used, size)


def test_a_question_fills_the_context_to_its_last_position(model):
    *_, last = Conversation(model).stream("What is it?", max_tokens=1)
    conversation = Conversation(model)
    conversation.context_size = last.prompt_tokens + 1
    *_, last = conversation.stream("What is it?", max_tokens=9)
    assert (last.generation_tokens, last.finish_reason) == (1, "length")
    assert conversation.context_used == conversation.context_size
    conversation = Conversation(model)
    conversation.context_size = last.prompt_tokens
    with pytest.raises(ContextError, match=f"needs {last.prompt_tokens + 1} tokens"):
        conversation.ask("What is it?", max_tokens=1)


def test_a_follow_up_fills_the_context_to_its_last_position(model):
    def asked(size: int | None) -> Conversation:
        conversation = Conversation(model)
        conversation.ask("Hi", max_tokens=3)
        conversation.context_size = size or conversation.context_size
        conversation.ask("And why?", max_tokens=1 if size is None else 9)
        return conversation

    needed = asked(None).context_used
    conversation = asked(needed)
    assert conversation.context_used == needed
    check(conversation)
    with pytest.raises(ContextError):
        asked(needed - 1)


@pytest.mark.parametrize("before", [0, 1])
def test_a_question_that_is_refused_leaves_nothing(model, before):
    """Its keys and values would be taken for those of the next question."""
    conversation, other = Conversation(model), Conversation(model)
    for _ in range(before):
        conversation.ask("Hi", max_tokens=4)
        other.ask("Hi", max_tokens=4)
    used, turns = conversation.context_used, conversation.history
    with pytest.raises(OptionError, match="max_tokens 2: too few"):
        conversation.ask("Where is the cat?", max_tokens=2, constraint=Refuses())
    assert (conversation.context_used, conversation.history) == (used, turns)
    assert all(layer.offset <= used for layer in conversation.state.cache)
    # As if it had never been asked.
    assert conversation.ask("And why?", max_tokens=9) == (
        other.ask("And why?", max_tokens=9)
    )
    check(conversation)


def test_waiting_images_join_the_question_after_a_refused_one(model):
    conversation = Conversation(model, make_image())
    with pytest.raises(OptionError, match="too few"):
        conversation.ask("What is it?", max_tokens=2, constraint=Refuses())
    *_, last = conversation.stream("What is it?", max_tokens=2)
    assert last.visual_tokens == 4
    *_, last = conversation.stream("And why?", max_tokens=2)
    assert last.visual_tokens == 0
    check(conversation)


def test_batches_fill_the_context_too(model):
    *_, last = Conversation(model).stream("What is it?", max_tokens=1)
    alone = Conversation(model)
    alone.context_size = last.prompt_tokens + 2
    wanted = alone.ask("What is it?", max_tokens=9, ignore_eos=True)
    config, changed = (
        model.config,
        replace(model.config, context_length=last.prompt_tokens + 2),
    )
    model.config = changed
    try:
        assert batch_generate(
            model, ["What is it?"] * 2, max_tokens=9, ignore_eos=True
        ) == [wanted, wanted]
        model.config = replace(config, context_length=last.prompt_tokens)
        with pytest.raises(ContextError):
            batch_generate(model, ["What is it?"], max_tokens=9)
    finally:
        model.config = config
