"""What conversations share: encoded images and beginnings of prompts."""

import mlx.core as mx

from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.model.feature_cache import FeatureCache
from tests.support.mock_model import check, make_image


def test_one_encoding_serves_every_conversation(model):
    first = Conversation(model)
    *_, cold = first.stream("What is it?", make_image(), max_tokens=5)
    *_, warm = Conversation(model).stream("What is it?", make_image(), max_tokens=5)
    assert model.encoded == 1
    assert cold.cached_tokens == 0 < warm.cached_tokens < warm.prompt_tokens
    # Another image shares what stands before it, a second question all up to it.
    *_, other = Conversation(model).stream("What is it?", make_image(2), max_tokens=5)
    assert 0 < other.cached_tokens < warm.cached_tokens
    assert model.encoded == 2
    Conversation(model, make_image(), resolution=64).ask("Hm", max_tokens=2)
    assert model.encoded == 3


def test_remembered_beginnings_change_nothing(model):
    texts = []
    for _ in range(2):
        conversation = Conversation(model, [make_image(), make_image(2)])
        texts.append(conversation.ask("What is it?", max_tokens=9))
        check(conversation)
        conversation.ask("And why?", max_tokens=9)
        check(conversation)
    assert texts[0] == texts[1]


def test_memory_is_bounded():
    store = FeatureCache(limit=100)
    for key in "abc":
        store.put(key, [mx.zeros((10,))])
    assert (len(store), store.nbytes) == (2, 80)
    assert store.get("a") is None and store.get("c") is not None
    store.get("b")
    store.put("d", [mx.zeros((10,))])
    assert store.get("b") is not None and store.get("c") is None
    store.put("huge", [mx.zeros((1000,))])
    assert store.get("huge") is None and len(store) == 2
    store.clear()
    assert (len(store), store.nbytes) == (0, 0)


def test_a_scoped_cache_shares_images_and_not_prefixes():
    cache = FeatureCache()
    prefix = ("digest", (1, 2))
    for inside, shares in (
        (cache.scoped(images=True), True),
        (cache.scoped(images=False), False),
    ):
        cache.put("digest", [mx.zeros(2)])
        cache.put(prefix, [mx.zeros(2)])
        assert (inside.get("digest") is not None) == shares
        assert inside.get(prefix) is None
        inside.put(prefix, [mx.ones(3)])
        assert inside.get(prefix)[0].size == 3  # type: ignore
        assert cache.get(prefix)[0].size == 2  # type: ignore
        assert inside.nbytes == cache.nbytes > 0
        assert len(inside) == len(cache) == 3
        inside.clear()
        assert not len(cache)
