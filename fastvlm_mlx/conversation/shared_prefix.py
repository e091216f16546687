"""Saves and restores the KV cache of a prompt prefix that other conversations share.

Two prefixes are shared: the prompt up to its last image, and the tokens before its
first image.
"""

from collections.abc import Hashable, Iterator

import mlx.core as mx

from fastvlm_mlx.conversation.attachment import Attachment, Pieces, length
from fastvlm_mlx.generation import decode
from fastvlm_mlx.model.feature_cache import FeatureCache


def save_prefix(prefixes: FeatureCache, pieces: Pieces, cache: decode.KVCache):
    """Saves the keys and values of the prefixes of `pieces` that others may share."""
    for key, size in _shared_prefixes(pieces):
        if prefixes.get(key) is None:
            prefixes.put(
                key,
                [
                    # A copy: a slice alone would keep the whole cache alive.
                    mx.contiguous(half[..., :size, :])
                    for layer in cache
                    for half in (layer.keys, layer.values)
                ],
            )


def restore_prefix(prefixes: FeatureCache, pieces: Pieces, cache: decode.KVCache):
    """Fills an empty `cache` with the longest saved prefix of `pieces`."""
    for key, size in _shared_prefixes(pieces):
        if (saved := prefixes.get(key)) is not None:
            # New arrays: the cache writes into its own in place.
            halves = [half[..., :size, :] for half in saved]
            for layer, keys, values in zip(
                cache, halves[::2], halves[1::2], strict=True
            ):
                layer.state = (keys, values, size)
            return


def _shared_prefixes(pieces: Pieces) -> Iterator[tuple[Hashable, int]]:
    """The prefixes as a key and a number of positions, the longest first."""
    places = [at for at, piece in enumerate(pieces) if isinstance(piece, Attachment)]
    for end in (places[-1] + 1, places[0]) if places else ():
        if end:
            key = (
                piece.digest if isinstance(piece, Attachment) else tuple(piece)
                for piece in pieces[:end]
            )
            yield tuple(key), length(pieces[:end])
