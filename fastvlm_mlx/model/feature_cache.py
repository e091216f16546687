"""LRU cache of image features and KV-cache prefixes, one per loaded model.

Conversations with one model share it: a second question about an image, also from
another user, encodes nothing. Beneath it there may be `KeptFeatures`, files that a
later process finds again.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import mlx.core as mx

LIMIT = 256 << 20  # bytes; one image of the 0.5B model takes 1 MB


class FeatureFiles(Protocol):
    """Features of images on disk, as `KeptFeatures`; see there."""

    def get(self, digest: str) -> mx.array | None: ...

    def put(self, digest: str, features: mx.array) -> None: ...

    def renew(self) -> None: ...


class FeatureCache:
    """Arrays by key, at most `limit` bytes of them; the least recently used go first.

    Safe to use from several threads. Change a model's weights and `clear` it.
    """

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self._size = 0
        self._arrays: OrderedDict[Hashable, list[mx.array]] = OrderedDict()
        self._lock = threading.Lock()
        self._disk: FeatureFiles | None = None

    @property
    def keeps_on_disk(self) -> bool:
        """Whether the features of images are kept on disk too."""
        return self._disk is not None

    def keep_on_disk(self, files: FeatureFiles) -> None:
        """Reads the features of images from `files` too, and keeps new ones there."""
        self._disk = files

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
        found = self._recall(key)
        # An image's key is its digest, a prefix's a tuple.
        if found is None and self._disk is not None and isinstance(key, str):
            kept = self._disk.get(key)
            if kept is not None:
                found = [kept]
                self._remember(key, found)
        return found

    def put(self, key: Hashable, arrays: Sequence[mx.array]):
        """Keeps `arrays`, whose computing begins now.

        Since MLX 0.31.2 only the thread that described an array can start it, while
        any thread may wait for it.
        """
        mx.async_eval(*arrays)
        self._remember(key, arrays)
        if self._disk is not None and isinstance(key, str):
            self._disk.put(key, arrays[0])

    def _recall(self, key: Hashable) -> list[mx.array] | None:
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
            return self._arrays.get(key)

    def _remember(self, key: Hashable, arrays: Sequence[mx.array]):
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
        """Removes everything from memory; what is on disk is that of its weights."""
        with self._lock:
            self._arrays.clear()
            self._size = 0
        if self._disk is not None:
            self._disk.renew()

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

    @property
    def keeps_on_disk(self) -> bool:
        return (self._around if self._images else super()).keeps_on_disk

    def keep_on_disk(self, files: FeatureFiles) -> None:
        # Images that are the same for both models are the concern of the one around.
        if not self._images:
            super().keep_on_disk(files)

    def _recall(self, key: Hashable) -> list[mx.array] | None:
        return self._around.get(self._inside(key))

    def _remember(self, key: Hashable, arrays: Sequence[mx.array]):
        self._around.put(self._inside(key), arrays)

    def clear(self):
        self._around.clear()
        super().clear()

    def __len__(self) -> int:
        return len(self._around)

    def _inside(self, key: Hashable) -> Hashable:
        return key if self._images and isinstance(key, str) else (self._scope, key)
