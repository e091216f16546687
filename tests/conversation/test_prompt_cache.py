"""Conversations that are sent anew whole go on from what is known of them."""

from dataclasses import replace
from typing import Any

from fastvlm_mlx.conversation.attachment import attach
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.conversation.history import Turn
from fastvlm_mlx.conversation.prompt_cache import LRUPromptCache
from tests.support.mock_model import MockModel, make_image


def ask(
    cache: LRUPromptCache, turns: list[Turn], text: str, *images: Any, **options: Any
):
    """One request: `turns` and a question; the turns it makes and its last chunk."""
    model = cache._model
    view = Conversation(model).image_options
    attached = tuple(attach(model, image, view) for image in images)
    conversation = cache.restore(turns, **options)
    chunks = list(conversation.stream(text, attached, max_tokens=8))
    cache.insert(conversation)
    # A client knows no ids.
    said = [replace(turn, tokens=()) for turn in conversation.history[-2:]]
    return [*turns, *said], chunks[-1]


def tokens_anew(model: MockModel, turns: list[Turn], system: str | None = None) -> str:
    """The last answer as a conversation of one's own gives it."""
    conversation = Conversation(model, system=system)
    answer = ""
    for turn in turns:
        if turn.role == "user":
            answer = conversation.ask(turn.text, list(turn.images), max_tokens=8)
    return answer


def test_a_conversation_goes_on(model):
    cache = LRUPromptCache(model)
    turns: list[Turn] = []
    for number, text in enumerate(("What is it?", "And why?", "Since when?")):
        images = [make_image(3)] if number == 0 else []
        turns, last = ask(cache, turns, text, *images)
        assert turns[-1].text == tokens_anew(model, turns)
        # All but the closing of the last answer and the new question.
        assert number == 0 or last.prompt_tokens - last.cached_tokens < 30
    assert len(cache) == 1


def test_an_edited_question_goes_on_from_what_is_the_same(model):
    cache = LRUPromptCache(model)
    turns, first = ask(cache, [], "What is it?", make_image(3))
    long, _ = ask(cache, turns, "And why?")
    edited, last = ask(cache, turns, "And where?")
    assert last.cached_tokens >= first.prompt_tokens
    assert edited[-1].text == tokens_anew(model, edited)
    # The first branch is as it was.
    more, last = ask(cache, long, "Since when?")
    assert last.prompt_tokens - last.cached_tokens < 30
    assert more[-1].text == tokens_anew(model, more)
    assert len(cache) == 2


def test_what_differs_is_not_shared(model):
    cache = LRUPromptCache(model)
    turns, _ = ask(cache, [], "What is it?", make_image(3))
    # Up to the image, which takes four positions.
    (entry,) = cache._entries
    opening = [isinstance(position, tuple) for position in entry.positions].index(True)
    other = [replace(turns[0], text="What was it?"), turns[1]]
    _, last = ask(cache, other, "And why?")
    assert last.cached_tokens == opening + 4
    with_system, last = ask(cache, turns, "And why?", system="Be brief.")
    assert last.cached_tokens == 0
    assert with_system[-1].role == "assistant"
    view = Conversation(model).image_options
    other_image = (attach(model, make_image(4), view),)
    _, last = ask(cache, [replace(turns[0], images=other_image), turns[1]], "Why?")
    assert last.cached_tokens == opening


def test_an_answer_the_client_changed_is_taken_as_it_says(model):
    cache = LRUPromptCache(model)
    turns, _ = ask(cache, [], "What is it?")
    changed = [turns[0], replace(turns[1], text="A cat, I think.")]
    conversation = cache.restore(changed)
    assert [turn.text for turn in conversation.history] == [
        "What is it?",
        "A cat, I think.",
    ]
    assert 0 < conversation.state.cache[0].offset < conversation.context_used
    assert conversation.ask("Why?", max_tokens=5)


def test_bytes_are_bounded_and_the_oldest_go(model):
    cache = LRUPromptCache(model)
    ask(cache, [], "One?")
    one = cache.nbytes
    cache.limit = 3 * one
    for text in ("Two?", "Three?", "Four?", "Five?"):
        ask(cache, [], text)
    assert cache.nbytes <= cache.limit and len(cache) == 3
    cache.limit = 1
    ask(cache, [], "Six?")
    assert len(cache) == 0 and cache.nbytes == 0
    cache.clear()


def test_images_are_not_kept(model):
    cache = LRUPromptCache(model)
    ask(cache, [], "What is it?", make_image(3))
    (entry,) = cache._entries
    assert all(isinstance(position, int | tuple) for position in entry.positions)


def test_an_unanswered_question_is_not_kept(model):
    cache = LRUPromptCache(model)
    cache.insert(cache.restore([]))
    assert len(cache) == 0
