"""Which conversations the prompt cache keeps, and how much of each it takes over."""

from dataclasses import replace

from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.conversation.history import Turn
from fastvlm_mlx.conversation.prompt_cache import LRUPromptCache, _shared
from fastvlm_mlx.generation import decode
from tests.support.mock_model import make_image


def ask(cache: LRUPromptCache, text: str, turns: tuple[Turn, ...] = (), **options):
    conversation = cache.restore(turns, **options)
    conversation.ask(text, max_tokens=4, ignore_eos=True)
    cache.insert(conversation)
    return conversation.history


def kept(cache: LRUPromptCache) -> list[str]:
    """The first question of each conversation, the next to go first."""
    return [entry.turn_keys[0][1] for entry in cache._entries]


def test_the_least_recently_used_goes_first(model):
    cache = LRUPromptCache(model)
    ask(cache, "One?")
    cache.limit = 3 * cache.nbytes
    two = ask(cache, "Two?")
    ask(cache, "Three?")
    assert kept(cache) == ["One?", "Two?", "Three?"]
    ask(cache, "Four?")
    assert kept(cache) == ["Two?", "Three?", "Four?"]
    cache.restore(two)  # used, though nothing is added
    assert kept(cache) == ["Three?", "Four?", "Two?"]
    ask(cache, "Five?")
    assert kept(cache) == ["Four?", "Two?", "Five?"]


def test_the_limit_itself_is_allowed(model):
    cache = LRUPromptCache(model)
    ask(cache, "One?")
    cache.limit = 2 * cache.nbytes
    ask(cache, "Two?")
    assert kept(cache) == ["One?", "Two?"]
    assert cache.nbytes == cache.limit
    cache.limit -= 1
    ask(cache, "Three?")
    assert kept(cache) == ["Three?"]


def test_no_more_is_taken_over_than_was_computed(model):
    """The last token of an answer is shown before its keys are computed."""
    cache = LRUPromptCache(model)
    turns = ask(cache, "What is it?")
    (entry,) = cache._entries
    computed = decode.cache_length(entry.cache)
    assert computed < len(entry.positions)
    conversation = cache.restore(turns)
    for layer in conversation.state.cache:
        assert layer.offset == layer.keys.shape[2] == layer.values.shape[2] == computed
    own = Conversation(model)
    own.ask("What is it?", max_tokens=4, ignore_eos=True)
    assert conversation.ask("And why?", max_tokens=9) == (
        own.ask("And why?", max_tokens=9)
    )


def test_what_is_taken_over_is_a_copy(model):
    cache = LRUPromptCache(model)
    turns = ask(cache, "What is it?")
    first = cache.restore(turns).ask("And why?", max_tokens=9)
    cache.restore(turns).ask("Since when is it there?", max_tokens=9)
    assert cache.restore(turns).ask("And why?", max_tokens=9) == first


def test_ids_are_taken_over_for_shared_turns_alone(model):
    cache = LRUPromptCache(model)
    turns = ask(cache, "What is it?")
    said = [replace(turn, tokens=()) for turn in turns]
    restored = cache.restore(said)
    assert restored.history[1].tokens == turns[1].tokens
    other = replace(turns[1], text="A cat.", tokens=())
    restored = cache.restore([said[0], other])
    answer = restored.state.pieces[-1]
    assert isinstance(answer, list)
    assert model.tokenizer.decode(answer) == "A cat."


def test_the_most_of_several_is_taken(model):
    cache = LRUPromptCache(model)
    short = ask(cache, "What is it?")
    long = ask(cache, "And why?", short)
    ask(cache, "And where?", short)
    assert len(cache) == 2
    entry, shared = cache._closest(_keys(long), None)
    assert entry is not None and (shared, entry.turn_keys) == (4, _keys(long))
    # Of equals the latest.
    entry, shared = cache._closest(_keys(short), None)
    assert entry is cache._entries[-1] and shared == 2
    assert cache._closest(_keys(long), "Be brief.") == (None, 0)
    assert cache._closest((), None) == (None, 0)


def test_a_longer_conversation_takes_the_place_of_its_beginning(model):
    cache = LRUPromptCache(model)
    one = ask(cache, "One?")
    ask(cache, "Two?")
    ask(cache, "And then?", one)
    assert [len(entry.turn_keys) for entry in cache._entries] == [2, 4]
    ask(cache, "One?", system="Be brief.")
    assert [entry.system for entry in cache._entries] == [None, None, "Be brief."]


def test_images_count_with_all_their_positions(model):
    cache = LRUPromptCache(model)
    conversation = cache.restore([])
    conversation.ask("What is it?", make_image(3), max_tokens=4, ignore_eos=True)
    cache.insert(conversation)
    restored = cache.restore(conversation.history)
    assert restored.context_used == conversation.context_used
    assert restored.state.cache[0].offset == conversation.state.cache[0].offset
    assert restored.state.cache[0].offset > restored.context_used - 4


def test_the_length_of_a_common_prefix():
    assert _shared("", "") == _shared("ab", "") == _shared("ab", "b") == 0
    assert _shared("ab", "ac") == 1
    assert _shared("ab", "abc") == _shared("abc", "ab") == _shared("ab", "ab") == 2


def _keys(turns: tuple[Turn, ...]):
    return tuple((turn.role, turn.text, ()) for turn in turns)
