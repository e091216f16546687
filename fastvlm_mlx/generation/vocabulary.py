"""The bytes of a model's tokens, and the fewest tokens that spell a text."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Spelling:
    """A text and the tokens that spell each of its ends with the fewest.

    `first[i]` is the first token of `text[i:]`, `counts[i]` how many there are.
    """

    text: bytes
    first: tuple[int, ...]
    counts: tuple[int, ...]
    lengths: tuple[int, ...]  # in bytes, of the tokens `first`

    def tokens(self, start: int = 0) -> list[int]:
        """The ids of the tokens of `text[start:]`."""
        ids = []
        while start < len(self.text):
            ids.append(self.first[start])
            start += self.lengths[start]
        return ids


class Vocabulary:
    """llguidance's `tokenizer` with the bytes of its tokens.

    - `alphabet`: the bytes that are a token of their own.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._ends = frozenset(tokenizer.eos_tokens)
        self._texts: list[bytes] = [
            b"" if tokenizer.is_special_token(id) else tokenizer.decode_bytes([id])
            for id in range(tokenizer.vocab_size)
        ]
        self._ids: dict[bytes, int] = {}
        for id, text in enumerate(self._texts):
            if text and id not in self._ends:
                self._ids.setdefault(text, id)
        self._longest = max(map(len, self._ids), default=0)
        self.alphabet = frozenset(text[0] for text in self._ids if len(text) == 1)

    @property
    def end(self) -> int:
        """The token that ends an answer."""
        return self.tokenizer.eos_token

    def is_end(self, token: int) -> bool:
        """Whether `token` ends an answer."""
        return token in self._ends

    def text(self, token: int) -> bytes:
        """The bytes of `token`, none if it is a special one."""
        return self._texts[token]

    def spell(self, text: bytes) -> Spelling:
        """The fewest tokens of `text`, all of whose bytes are in `alphabet`."""
        size = len(text)
        first, counts, lengths = [0] * size, [0] * (size + 1), [0] * size
        for start in reversed(range(size)):
            fewest = size + 1
            for end in range(start + 1, min(start + self._longest, size) + 1):
                id = self._ids.get(text[start:end])
                if id is not None and counts[end] + 1 <= fewest:
                    fewest = counts[end] + 1
                    first[start], lengths[start] = id, end - start
            counts[start] = fewest
        return Spelling(text, tuple(first), tuple(counts), tuple(lengths))
