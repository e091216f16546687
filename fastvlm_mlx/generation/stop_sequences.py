"""Matches stop sequences in streamed text; text that may begin one is held back."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastvlm_mlx.processing.tokenizer import TextStream


class StopSequenceMatcher:
    """Takes token ids and returns text; `matched` is the stop sequence that was found.

    Of several that begin in one place it is the first in the list.
    """

    def __init__(self, decoder: "TextStream", stop: tuple[str, ...]):
        self.matched: str | None = None
        self._decoder = decoder
        self._stop = stop
        self._held = ""

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence was found."""
        return self.matched is not None

    @property
    def held(self) -> int:
        """Characters that are held back."""
        return len(self._held)

    def push(self, token: int) -> str:
        """The text that is certain after `token`, without the stop sequence."""
        return self._show(self._decoder.push(token), final=False)

    def finish(self) -> str:
        """The rest of the text, half a character included."""
        return self._show(self._decoder.finish(), final=True)

    def _show(self, text: str, *, final: bool) -> str:
        text = self._held + text
        cuts = [(at, stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if cuts:
            at, self.matched = min(cuts, key=lambda cut: cut[0])
            self._held = ""
            return text[:at]
        keep = len(text) if final else len(text) - self._held_length(text)
        self._held = text[keep:]
        return text[:keep]

    def _held_length(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop sequence."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
