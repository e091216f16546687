"""The turns of a chat, the prompt they make (token ids and images), and the KV cache
for a prefix of that prompt.

A question prefills what the cache lacks: usually the end of the last turn and the
question's own tokens; after an interrupted step everything. So nothing has to be
undone when an answer is cut short, and prompt and cache cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mlx.core as mx

from fastvlm_mlx.conversation.attachment import Attachment, Pieces, length
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.generation import decode
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
    """The state of a conversation.

    - `turns`: for people.
    - `pieces`: the prompt they make, for the model.
    - `cache`: the KV cache for a prefix of `pieces`.
    - `waiting`: images that join the next question.
    """

    def __init__(self, model: "FastVLMModel", system: str | None):
        self.turns: list[Turn] = []
        self.pieces: Pieces = []
        self.waiting: list[Attachment] = []
        self.cache: decode.KVCache = language.make_cache(model.language_model)
        self._model = model
        self._system = system

    def with_question(self, text: str, images: Sequence[Attachment]) -> Pieces:
        """`pieces` and a question, up to where its answer starts.

        Raises:
            OptionError: the question is no string.
        """
        if not isinstance(text, str):
            kind = "None" if text is None else f"of type {type(text).__name__}"
            raise OptionError(
                f"prompt: is {kind}; give the question as a string, the images after it"
            )
        question = chat_template.encode_turn(
            self._model.tokenizer,
            text,
            range(len(images)),
            labels=[image.label for image in images],
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
        skip = decode.cache_length(self.cache)
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

    def images_to_read(self) -> list[Attachment]:
        """The images of the turns so far of which the KV cache lacks something."""
        skip, found = decode.cache_length(self.cache), list[Attachment]()
        for piece in self.pieces:
            size = length([piece])
            if skip < size and isinstance(piece, Attachment):
                found.append(piece)
            skip = max(skip - size, 0)
        return found

    def keep(self, question: Turn, pieces: Pieces, shown: Sequence[Chunk]):
        """Adds a question, `pieces` with it, and what was `shown` of its answer."""
        text = "".join(chunk.text for chunk in shown)
        ids = [chunk.token for chunk in shown if chunk.token is not None]
        finish = shown[-1].finish_reason or "cancelled"
        kept = ids[: self._count_shown(ids, text)]
        decode.trim_cache(self.cache, length(pieces) + len(kept))
        tokenizer = self._model.tokenizer
        if rest := text[len(tokenizer.decode(kept)) :]:
            kept += tokenizer.encode(rest)
        self.add(question, pieces, Turn("assistant", text, (), tuple(kept), finish))

    def add(self, question: Turn, pieces: Pieces, answer: Turn):
        """Adds a question, `pieces` with it, and its answer; no image waits then."""
        self.pieces = [*pieces, list(answer.tokens)]
        self.turns += [question, answer]
        self.waiting = []

    def _count_shown(self, ids: list[int], text: str) -> int:
        """How many of `ids` decode to a beginning of `text`.

        A stop sequence or an interrupt can cut a token in two, or leave some unshown.
        """
        tokenizer = self._model.tokenizer
        if text.startswith(tokenizer.decode(ids)):
            return len(ids)
        stream, known, count = tokenizer.stream(), "", 0
        for token in ids:
            known += stream.push(token)
            if not text.startswith(known):
                break
            count += 1
        # The stream holds back half a character, which is not part of the text.
        while not text.startswith(tokenizer.decode(ids[:count])):
            count -= 1
        return count

    def replay(self, turn: Turn):
        """Adds a turn from elsewhere; nothing is computed."""
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
