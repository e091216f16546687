"""Conversations that are sent anew whole, as chat protocols do, and go on at once.

A request of OpenAI's or Ollama's protocol repeats everything said so far. The store
here keeps the KV caches of recent conversations under what was said in them, so that
the next request of a conversation prefills its last question only, and an edited one
goes on from the last turn that is still the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fastvlm_mlx.conversation.attachment import Attachment, Pieces
from fastvlm_mlx.conversation.conversation import Conversation
from fastvlm_mlx.conversation.history import History, Turn
from fastvlm_mlx.generation import decode

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel

LIMIT = 256 << 20  # bytes; 1,000 positions of the 0.5B model take 12 MB

_Said = tuple[str, str, tuple[str, ...]]  # role, text, digests of images
_Place = int | tuple[str, int]  # a token, or an image's digest and its positions


@dataclass(frozen=True)
class _Entry:
    system: str | None
    said: tuple[_Said, ...]
    tokens: tuple[tuple[int, ...], ...]  # of each turn
    places: tuple[_Place, ...]
    cache: decode.KVCache

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.cache)


class LRUPromptCache:
    """Recent conversations with `model`, at most `limit` bytes of KV cache; the least
    recently used go first. Images are known by their digest and not kept.

    Only for the thread that runs the model.
    """

    def __init__(self, model: "FastVLMModel", limit: int = LIMIT):
        self.limit = limit
        self._model = model
        self._entries: list[_Entry] = []  # the least recently used first

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of KV cache held."""
        return sum(entry.nbytes for entry in self._entries)

    def clear(self):
        """Forgets everything."""
        self._entries.clear()

    def resume(
        self, turns: Sequence[Turn], *, system: str | None = None, **options: Any
    ) -> Conversation:
        """A conversation in which `turns` were said, questions and answers by turns.

        As much of it as an earlier one shares need not be computed again. Options as
        for `Conversation`.
        """
        conversation = Conversation(self._model, system=system, **options)
        past = conversation._past
        entry, shared = self._closest(_said(turns), system)
        for number, turn in enumerate(turns):
            if entry is not None and number < shared:
                # The ids as they were generated: only they continue the same way.
                turn = replace(turn, tokens=entry.tokens[number])
            past.replay(turn)
        if entry is not None:
            self._entries.remove(entry)
            self._entries.append(entry)
            _adopt(past, entry)
        return conversation

    def keep(self, conversation: Conversation):
        """Remembers what was said; call it when an answer has ended."""
        past = conversation._past
        said = _said(past.turns)
        entry = _Entry(
            system=conversation.system,
            said=said,
            tokens=tuple(turn.tokens for turn in past.turns),
            places=tuple(_places(past.pieces)),
            cache=past.cache,
        )
        if not said or not decode.cache_length(past.cache):
            return
        self._entries = [
            old
            for old in self._entries
            if old.system != entry.system or old.said != said[: len(old.said)]
        ]
        self._entries.append(entry)
        while self._entries and self.nbytes > self.limit:
            self._entries.pop(0)

    def _closest(
        self, said: tuple[_Said, ...], system: str | None
    ) -> tuple[_Entry | None, int]:
        """The entry that shares most turns from the beginning, and how many."""
        best, most = None, 0
        for entry in reversed(self._entries):
            if entry.system == system and (shared := _shared(entry.said, said)) > most:
                best, most = entry, shared
        return best, most


def _said(turns: Sequence[Turn]) -> tuple[_Said, ...]:
    return tuple(
        (turn.role, turn.text, tuple(image.digest for image in turn.images))
        for turn in turns
    )


def _shared(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Length of the beginning that both have."""
    for number, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return number
    return min(len(left), len(right))


def _places(pieces: Pieces) -> list[_Place]:
    places: list[_Place] = []
    for piece in pieces:
        if isinstance(piece, Attachment):
            places.append((piece.digest, piece.tokens))
        else:
            places += piece
    return places


def _adopt(past: History, entry: _Entry):
    """Fills the empty cache of `past` with what `entry` has of the same beginning."""
    places = _places(past.pieces)
    same = places[: _shared(places, entry.places)]
    size = sum(1 if isinstance(place, int) else place[1] for place in same)
    size = min(size, decode.cache_length(entry.cache))
    for mine, theirs in zip(past.cache, entry.cache, strict=True):
        # New arrays: a cache writes into its own in place.
        mine.state = (theirs.keys[..., :size, :], theirs.values[..., :size, :], size)
