"""LRU cache of image features and KV-cache prefixes, one per loaded model.

Conversations with one model share it: a second question about an image, also from
another user, encodes nothing.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import mlx.core as mx

LIMIT = 256 << 20  # bytes; one image of the 0.5B model takes 1 MB


class FeatureCache:
    """Arrays by key, at most `limit` bytes of them; the least recently used go first.

    Safe to use from several threads. Change a model's weights and `clear` it.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self._size = 0
        self._arrays: OrderedDict[Hashable, list[mx.array]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays in it."""
        return self._size

    def scoped(self, *, images: bool) -> "FeatureCache":
        """A cache within this one for a model that differs in its language model.

        Args:
            images: whether the features of images are the same for both models.
        """
        return _ScopedCache(self, images)

    def get(self, key: Hashable) -> list[mx.array] | None:
        """The arrays under `key`, unless it had to make room."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def put(self, key: Hashable, arrays: Sequence[mx.array]):
        """Keeps `arrays`, whose computing begins now.

        Since MLX 0.31.2 only the thread that described an array can start it, while
        any thread may wait for it.
        """
        mx.async_eval(*arrays)
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if key in self._arrays or size > self.limit:
                return
            self._arrays[key] = list(arrays)
            self._size += size
            while self._size > self.limit:
                _, oldest = self._arrays.popitem(last=False)
                self._size -= sum(array.nbytes for array in oldest)

    def clear(self):
        """Removes everything."""
        with self._lock:
            self._arrays.clear()
            self._size = 0

    def __len__(self) -> int:
        return len(self._arrays)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureCache":
        # A copied model may get other weights; and a lock cannot be copied.
        return FeatureCache(self.limit)


class _ScopedCache(FeatureCache):
    """See `FeatureCache.scoped`; the limit is that of the cache around it."""

    def __init__(self, around: FeatureCache, images: bool):
        super().__init__(around.limit)
        self._around = around
        self._images = images
        self._scope = object()

    @property
    def nbytes(self) -> int:
        return self._around.nbytes

    def get(self, key: Hashable) -> list[mx.array] | None:
        return self._around.get(self._inside(key))

    def put(self, key: Hashable, arrays: Sequence[mx.array]):
        self._around.put(self._inside(key), arrays)

    def clear(self):
        self._around.clear()

    def __len__(self) -> int:
        return len(self._around)

    def _inside(self, key: Hashable) -> Hashable:
        # An image's key is its digest, a prefix's a tuple.
        return key if self._images and isinstance(key, str) else (self._scope, key)
