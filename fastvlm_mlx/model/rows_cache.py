"""The KV caches of several rows as one mlx-lm cache, for a step of all rows together.

Every row keeps its own caches, so rows of any length join and leave without a copy of
what the others hold. The linear layers see all rows at once; attention, which has no
weights to read, is computed row by row without padding. So what a row's attention adds
up does not depend on the rows beside it.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx

LayerCaches = list[Any]  # one mlx_lm KVCache per layer


class RowsCache:
    """One layer's caches of B rows, which take in the same number of positions.

    mlx-lm's attention calls `update_and_fetch`, then `cpu/mlx_lm_patch.py` computes
    the attention from `fetched`: each row's cache, keys and values. With `padded`, for
    a module of mlx-lm without the patch, they are padded to one length instead.
    """

    def __init__(self, caches: Sequence[Any], offset: mx.array, *, padded: bool):
        self.fetched: list[tuple[Any, mx.array, mx.array]] = []
        self.offset = offset  # (B,), for the rotary embedding
        self.rows_apart = not padded
        self.caches = caches

    def update_and_fetch(
        self, keys: mx.array, values: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Takes (B, kv_heads, L, head_dim) in; returns what attention is given."""
        self.fetched = [
            (cache, *cache.update_and_fetch(keys[i : i + 1], values[i : i + 1]))
            for i, cache in enumerate(self.caches)
        ]
        if self.rows_apart:
            return keys, values
        return _padded([k for _, k, _ in self.fetched]), _padded(
            [v for *_, v in self.fetched]
        )

    def make_mask(self, N: int, **_: Any) -> mx.array | str | None:
        """The mask for N new positions, as mlx-lm's caches make it."""
        if self.rows_apart:
            return "causal" if N > 1 else None
        longest = max(cache.offset for cache in self.caches) + N
        # (B, 1, N, longest): new position n of a row sees its first offset + n + 1
        places = self.offset[:, None, None, None] + mx.arange(N)[:, None]
        return mx.arange(longest) <= places


def rows_cache(rows: Sequence[LayerCaches], *, padded: bool) -> LayerCaches:
    """The caches of B rows, one entry per layer; of one row its own."""
    if len(rows) == 1:
        return rows[0]
    offset = mx.array([row[0].offset for row in rows])
    return [
        RowsCache(layer, offset, padded=padded) for layer in zip(*rows, strict=True)
    ]


def _padded(arrays: list[mx.array]) -> mx.array:
    longest = max(array.shape[2] for array in arrays)
    return mx.concatenate(
        [
            mx.pad(array, [(0, 0), (0, 0), (0, longest - array.shape[2]), (0, 0)])
            for array in arrays
        ]
    )
