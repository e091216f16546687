"""TODO first line."""

from collections.abc import Hashable, Iterator

import mlx.core as mx

from fastvlm_mlx.conversation.attachment import Attachment, Pieces, length
from fastvlm_mlx.generation import decode
from fastvlm_mlx.model.feature_cache import FeatureCache


def remember(memory: FeatureCache, pieces: Pieces, cache: decode.KVCache):
    """Keeps the keys and values of the beginnings that others may share."""
    for key, size in _beginnings(pieces):
        if memory.get(key) is None:
            memory.put(
                key,
                [
                    # A copy: a slice alone would keep the whole cache alive.
                    mx.contiguous(half[..., :size, :])
                    for layer in cache
                    for half in (layer.keys, layer.values)
                ],
            )


def recall(memory: FeatureCache, pieces: Pieces, cache: decode.KVCache):
    """Fills an empty `cache` with the longest known beginning of `pieces`."""
    for key, size in _beginnings(pieces):
        if (known := memory.get(key)) is not None:
            # New arrays: the cache writes into its own in place.
            halves = [half[..., :size, :] for half in known]
            for layer, keys, values in zip(
                cache, halves[::2], halves[1::2], strict=True
            ):
                layer.state = (keys, values, size)
            return


def _beginnings(pieces: Pieces) -> Iterator[tuple[Hashable, int]]:
    """What other conversations may begin with, the longest first: all up to the last
    image, and all before the first. Each as a key and a number of positions."""
    places = [at for at, piece in enumerate(pieces) if isinstance(piece, Attachment)]
    for end in (places[-1] + 1, places[0]) if places else ():
        if end:
            key = (
                piece.digest if isinstance(piece, Attachment) else tuple(piece)
                for piece in pieces[:end]
            )
            yield tuple(key), length(pieces[:end])
