"""LRU cache of KV caches for stateless chat APIs: a request that repeats an earlier
chat prefills only what is new.

A request of OpenAI's or Ollama's protocol repeats the whole chat. The cache finds the
conversation that shares most turns with it, so the next request of a chat prefills its
last question only, and one with an edited turn everything from that turn on.
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

_TurnKey = tuple[str, str, tuple[str, ...]]  # role, text, labels and digests of images
_Position = int | tuple[str, int]  # a token, or an image's digest and its positions


@dataclass(frozen=True)
class _Entry:
    system: str | None
    turn_keys: tuple[_TurnKey, ...]
    tokens: tuple[tuple[int, ...], ...]  # of each turn
    positions: tuple[_Position, ...]
    cache: decode.KVCache

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.cache)


class LRUPromptCache:
    """Recent conversations with `model`, at most `limit` bytes of KV cache.

    The least recently used are removed first. Images are identified by their digest
    and not kept. Only for the thread that runs the model.
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
        """Removes everything."""
        self._entries.clear()

    def restore(
        self,
        turns: Sequence[Turn],
        *,
        system: str | None = None,
        fit: str | None = None,
        resolution: int | None = None,
        tiles: tuple[int, int] | None = None,
    ) -> Conversation:
        """A conversation that consists of `turns`, questions and answers in turn.

        The KV cache of the longest beginning that an earlier conversation shares is
        taken over. Options and errors as for `Conversation`.
        """
        conversation = Conversation(
            self._model, system=system, fit=fit, resolution=resolution, tiles=tiles
        )
        state = conversation.state
        entry, shared = self._closest(_turn_keys(turns), system)
        for number, turn in enumerate(turns):
            if entry is not None and number < shared:
                # The ids as they were generated: only they continue the same way.
                turn = replace(turn, tokens=entry.tokens[number])
            state.replay(turn)
        if entry is not None:
            self._entries.remove(entry)
            self._entries.append(entry)
            _copy_shared(state, entry)
        return conversation

    def insert(self, conversation: Conversation):
        """Keeps a conversation's KV cache; call it when an answer has ended."""
        state = conversation.state
        keys = _turn_keys(state.turns)
        entry = _Entry(
            system=conversation.system,
            turn_keys=keys,
            tokens=tuple(turn.tokens for turn in state.turns),
            positions=tuple(_positions(state.pieces)),
            cache=state.cache,
        )
        if not keys or not decode.cache_length(state.cache):
            return
        self._entries = [
            old
            for old in self._entries
            if old.system != entry.system or old.turn_keys != keys[: len(old.turn_keys)]
        ]
        self._entries.append(entry)
        while self._entries and self.nbytes > self.limit:
            self._entries.pop(0)

    def _closest(
        self, keys: tuple[_TurnKey, ...], system: str | None
    ) -> tuple[_Entry | None, int]:
        """The entry that shares most turns from the beginning, and how many."""
        best, most = None, 0
        for entry in reversed(self._entries):
            shared = _shared(entry.turn_keys, keys)
            if entry.system == system and shared > most:
                best, most = entry, shared
        return best, most


def _turn_keys(turns: Sequence[Turn]) -> tuple[_TurnKey, ...]:
    return tuple(
        (
            turn.role,
            turn.text,
            tuple(image.label + image.digest for image in turn.images),
        )
        for turn in turns
    )


def _shared(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Length of the longest common prefix."""
    for number, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return number
    return min(len(left), len(right))


def _positions(pieces: Pieces) -> list[_Position]:
    positions: list[_Position] = []
    for piece in pieces:
        if isinstance(piece, Attachment):
            positions.append((piece.digest, piece.tokens))
        else:
            positions += piece
    return positions


def _copy_shared(state: History, entry: _Entry):
    """Fills the empty cache of `state` with the prefix that `entry` shares."""
    positions = _positions(state.pieces)
    same = positions[: _shared(positions, entry.positions)]
    size = sum(1 if isinstance(place, int) else place[1] for place in same)
    size = min(size, decode.cache_length(entry.cache))
    for mine, theirs in zip(state.cache, entry.cache, strict=True):
        # New arrays: a cache writes into its own in place.
        mine.state = (theirs.keys[..., :size, :], theirs.values[..., :size, :], size)
