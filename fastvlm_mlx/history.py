"""All that was said, as pieces of a prompt, and the KV cache of a beginning of it.

A question prefills what the cache lacks: usually the closing of the last answer and
its own tokens, after an interrupted step everything. So nothing has to be undone when
an answer is cut short, and the two cannot disagree.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from fastvlm_mlx import generation
from fastvlm_mlx.attachment import Attachment
from fastvlm_mlx.generation import Chunk
from fastvlm_mlx.memory import Memory
from fastvlm_mlx.model import language
from fastvlm_mlx.processing import chat_template
from fastvlm_mlx.transcript import Turn

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLM

Pieces = list[list[int] | Attachment]


def length(pieces: Sequence[list[int] | Attachment]) -> int:
    """Positions that `pieces` take in the context."""
    return sum(
        piece.tokens if isinstance(piece, Attachment) else len(piece)
        for piece in pieces
    )


class History:
    """`turns` for people, `pieces` for the model, and `cache`, which holds the keys
    and values of a beginning of `pieces`."""

    def __init__(self, model: "FastVLM", system: str | None):
        self.turns: list[Turn] = []
        self.pieces: Pieces = []
        self.cache: generation.Cache = language.mlx_lm_module(
            "models.cache"
        ).make_prompt_cache(model.language_model)
        self._model = model
        self._system = system

    def with_question(self, text: str, images: Sequence[Attachment]) -> Pieces:
        """`pieces` and a question, up to where its answer starts."""
        question = chat_template.turn(
            self._model.tokenizer,
            text,
            range(len(images)),
            first=not self.turns,
            system=self._system,
            template=self._model.config.template,
        )
        return [
            *self.pieces,
            *(
                images[piece.index]
                if isinstance(piece, chat_template.Picture)
                else piece
                for piece in question
            ),
        ]

    def missing(self, pieces: Pieces) -> mx.array:
        """Embeddings of what the cache lacks of `pieces`, `(1, L, hidden)`."""
        skip = generation.positions(self.cache)
        parts: list[list[int] | mx.array] = []
        for piece in pieces:
            size = length([piece])
            if skip < size:
                if isinstance(piece, Attachment):
                    parts.append(piece.features(self._model)[skip:])
                else:
                    parts.append(piece[skip:])
            skip = max(skip - size, 0)
        return self._model.embed(parts)

    def keep(self, question: Turn, pieces: Pieces, shown: Sequence[Chunk]):
        """Adds a question, `pieces` with it, and what was `shown` of its answer."""
        text = "".join(chunk.text for chunk in shown)
        ids = [chunk.token for chunk in shown if chunk.token is not None]
        finish = shown[-1].finish_reason or "cancelled"
        # A stop text or an interrupt can cut a token in two, or leave some unshown.
        decode, kept = self._model.tokenizer.decode, len(ids)
        while not text.startswith(known := decode(ids[:kept])):
            kept -= 1
        generation.trim(self.cache, length(pieces) + kept)
        ids = ids[:kept]
        if rest := text[len(known) :]:
            ids += self._model.tokenizer.encode(rest)
        self.pieces = [*pieces, ids]
        self.turns += [question, Turn("assistant", text, (), tuple(ids), finish)]

    def replay(self, turn: Turn):
        """Adds a turn that was said elsewhere; nothing is computed."""
        if turn.role == "user":
            self.pieces = self.with_question(turn.text, turn.images)
        else:
            # Ids of another tokenizer, or beyond the vocabulary, cannot be taken over.
            vocabulary = (self._model.config.text or {}).get("vocab_size", 0)
            tokenizer, ids = self._model.tokenizer, list(turn.tokens)
            known = all(0 <= token < vocabulary for token in ids)
            if not known or tokenizer.decode(ids) != turn.text:
                ids = tokenizer.encode(turn.text)
            self.pieces = [*self.pieces, ids]
        self.turns.append(turn)


def remember(memory: Memory, pieces: Pieces, cache: generation.Cache):
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


def recall(memory: Memory, pieces: Pieces, cache: generation.Cache):
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
    picture, and all before the first. Each as a key and a number of positions."""
    places = [at for at, piece in enumerate(pieces) if isinstance(piece, Attachment)]
    for end in (places[-1] + 1, places[0]) if places else ():
        if end:
            key = (
                piece.digest if isinstance(piece, Attachment) else tuple(piece)
                for piece in pieces[:end]
            )
            yield tuple(key), length(pieces[:end])
