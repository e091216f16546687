"""All that was said, as pieces of a prompt, and the KV cache of a beginning of it.

A question prefills what the cache lacks: usually the closing of the last answer and
its own tokens, after an interrupted step everything. So nothing has to be undone when
an answer is cut short, and the two cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from fastvlm_mlx.conversation.attachment import Attachment, Pieces, length
from fastvlm_mlx.generation import stream
from fastvlm_mlx.generation.stream import Chunk
from fastvlm_mlx.model import language
from fastvlm_mlx.processing import chat_template

if TYPE_CHECKING:
    from fastvlm_mlx.model.vlm import FastVLMModel


@dataclass(frozen=True)
class Turn:
    """One side's part of the history.

    `role` is "user" or "assistant". A user's turn has `images`, those that joined in
    it; an answer has `tokens`, its ids as they stand in the prompt, and its
    `finish_reason` ("cancelled" also if its reader stopped early).
    """

    role: str
    text: str
    images: tuple[Attachment, ...] = ()
    tokens: tuple[int, ...] = ()
    finish_reason: str | None = None


class History:
    """`turns` for people, `pieces` for the model, and `cache`, which holds the keys
    and values of a beginning of `pieces`."""

    def __init__(self, model: "FastVLMModel", system: str | None):
        self.turns: list[Turn] = []
        self.pieces: Pieces = []
        self.cache: stream.KVCache = language.make_cache(model.language_model)
        self._model = model
        self._system = system

    def with_question(self, text: str, images: Sequence[Attachment]) -> Pieces:
        """`pieces` and a question, up to where its answer starts."""
        question = chat_template.encode_turn(
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
                if isinstance(piece, chat_template.ImagePlaceholder)
                else piece
                for piece in question
            ),
        ]

    def missing(self, pieces: Pieces) -> mx.array:
        """Embeddings of what the cache lacks of `pieces`, `(1, L, hidden)`."""
        skip = stream.cache_length(self.cache)
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
        stream.trim_cache(self.cache, length(pieces) + kept)
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
            text = self._model.config.text
            vocabulary = text.vocab_size if text else 0
            tokenizer, ids = self._model.tokenizer, list(turn.tokens)
            known = all(0 <= token < vocabulary for token in ids)
            if not known or tokenizer.decode(ids) != turn.text:
                ids = tokenizer.encode(turn.text)
            self.pieces = [*self.pieces, ids]
        self.turns.append(turn)
