"""Matches stop sequences in streamed text, holding back what may begin one."""

from typing import Any


class StopSequenceMatcher:
    """Tokens in, text out, holding back what may be the beginning of a stop text."""

    def __init__(self, decoder: Any, stop: tuple[str, ...]):
        self.stopped = False
        self._decoder = decoder
        self._stop = stop
        self._held = ""

    def push(self, token: int) -> str:
        return self._show(self._decoder.push(token), final=False)

    def finish(self) -> str:
        return self._show(self._decoder.finish(), final=True)

    def _show(self, text: str, *, final: bool) -> str:
        text = self._held + text
        cuts = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if cuts:
            self.stopped, self._held = True, ""
            return text[: min(cuts)]
        keep = len(text) if final else len(text) - self._doubtful(text)
        self._held = text[keep:]
        return text[:keep]

    def _doubtful(self, text: str) -> int:
        """Length of the longest end of `text` that begins some stop text."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0
