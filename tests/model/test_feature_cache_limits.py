"""FeatureCache: bytes at the limit, the same key again, copies."""

import copy

import mlx.core as mx
import pytest

from fastvlm_mlx.model.feature_cache import FeatureCache


def floats(count: int) -> mx.array:
    return mx.zeros((count,))  # 4 bytes each


def test_the_limit_itself_is_allowed():
    cache = FeatureCache(limit=80)
    cache.put("a", [floats(20)])
    assert (len(cache), cache.nbytes) == (1, 80)
    cache.put("b", [floats(10)])
    assert (len(cache), cache.nbytes, cache.get("a")) == (1, 40, None)
    cache.put("c", [floats(10)])
    assert (len(cache), cache.nbytes) == (2, 80)
    cache.put("d", [floats(21)])
    assert (len(cache), cache.nbytes, cache.get("d")) == (2, 80, None)


def test_as_many_go_as_make_room():
    cache = FeatureCache(limit=100)
    for key in "abcde":
        cache.put(key, [floats(2), floats(3)])
    assert (len(cache), cache.nbytes) == (5, 100)
    cache.put("large", [floats(11)])
    assert [cache.get(key) is not None for key in "abcde"] == [False] * 3 + [True] * 2
    assert (len(cache), cache.nbytes) == (3, 84)


def test_a_key_is_kept_once():
    cache = FeatureCache(limit=100)
    first = floats(5)
    cache.put("a", [first])
    cache.put("a", [floats(9)])
    kept = cache.get("a")
    assert kept is not None and kept[0] is first
    assert (len(cache), cache.nbytes) == (1, 20)


@pytest.mark.parametrize("limit", [None, 100])
def test_a_copy_is_empty_with_the_same_limit(limit: int | None):
    cache = FeatureCache() if limit is None else FeatureCache(limit)
    assert cache.limit == (limit or 268_435_456)
    cache.put("a", [floats(5)])
    copied = copy.deepcopy(cache)
    assert (copied.limit, len(copied), copied.nbytes) == (cache.limit, 0, 0)
    assert (len(cache), cache.nbytes) == (1, 20)
