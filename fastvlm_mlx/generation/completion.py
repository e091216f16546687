"""The shortest text that completes a JSON answer begun under a schema.

llguidance says which bytes may come next, but not how many must. An A* search over
its states finds the shortest way to an accepting one. It cannot tell two states
apart, so it goes by what may come next and by the place in the JSON; inside strings,
where that says little of a pattern, by `string_completion`.
"""

import heapq
import itertools
import time
from typing import Any, NamedTuple

from fastvlm_mlx.generation.byte_matcher import allowed_bytes, byte_matcher, takes
from fastvlm_mlx.generation.string_completion import StringCompletions, preferred

MAX_NODES = 20_000  # of a search: a second or less
# Of a search, should each node take long: this thread's own, on a busy machine too.
SECONDS = 2.0
_ALIKE = 4  # states that look alike and are all followed, in a string without words
_FEW = 40  # allowed bytes that are all tried; of more, some
_TRIED = 3
_WORDS = 4  # ends of one string that are tried
_DIGITS, _ALIKE_NUMBERS = 40, 30  # of the search for a number
_NUMBER = frozenset(b"-0123456789.eE+")
_ENDS = frozenset(b",]} ")


class Place(NamedTuple):
    """Where in a JSON text its end is.

    - `outline`: the open brackets with the keys and the marks of finished values.
    - `opened`: where in `outline` each open bracket is.
    - `scalar`: the string, number or word that has begun, b"" between them.
    - `quoted`: 1 in a string, 2 after a backslash in one, else 0.
    """

    outline: bytes = b""
    opened: tuple[int, ...] = ()
    scalar: bytes = b""
    quoted: int = 0

    def after(self, text: bytes) -> "Place":
        """The place after `text` more."""
        outline, opened, scalar, quoted = self
        for byte in text:
            char = bytes([byte])
            if quoted:
                scalar += char
                if quoted == 2 or char == b"\\":
                    quoted = 1 if quoted == 2 else 2
                elif char == b'"':
                    # A key stays in the outline, of a value only that there was one.
                    inside = outline[opened[-1] :] if opened else b""
                    is_key = inside[:1] == b"{" and inside[-1:] in b"{,"
                    outline += scalar if is_key else b"v"
                    scalar, quoted = b"", 0
            elif char == b'"':
                scalar, quoted = char, 1
            elif char in b"{[":
                opened = (*opened, len(outline))
                outline += char
            elif char in b"}]":
                outline, opened = outline[: opened[-1]] + b"v", opened[:-1]
                scalar = b""
            elif char in b",:":
                outline, scalar = outline + (b"v" * bool(scalar)) + char, b""
            elif char != b" ":
                scalar += char
        return Place(outline, opened, scalar, quoted)

    @property
    def least(self) -> int:
        """Bytes that must come at least: what closes the string and the brackets."""
        return len(self.opened) + bool(self.quoted)


class JSONState:
    """A JSON answer so far, under a schema's `grammar`."""

    def __init__(self, matcher: Any, place: Place, strings: StringCompletions):
        self._matcher = matcher
        self._place = place
        self._strings = strings

    @classmethod
    def start(cls, schema: Any, grammar: str) -> "JSONState":
        """Before the first byte."""
        return cls(byte_matcher(grammar), Place(), StringCompletions(schema))

    def after(self, text: bytes) -> "JSONState":
        """The state after `text` more, which the grammar must allow."""
        matcher = self._matcher.deep_copy()
        matcher.consume_tokens(list(text))
        return JSONState(matcher, self._place.after(text), self._strings)

    @property
    def fault(self) -> str:
        """What llguidance finds too hard here, or an empty string."""
        return self._matcher.get_error()

    def completes(self, text: bytes) -> bool:
        """Whether the answer is whole after `text` more."""
        matcher = self._matcher.deep_copy()
        return takes(matcher, text) and matcher.is_accepting()

    def shortest_completion(self, alphabet: frozenset[int]) -> bytes | None:
        """The shortest text of the bytes `alphabet` after which the answer is whole.

        None if there is none, or none that can be found in reasonable time.
        """
        latest = time.thread_time() + SECONDS
        order = itertools.count()
        queue = [(0, 0, next(order), b"", self._matcher, self._place)]
        alike: dict[tuple[Any, ...], int] = {}
        for _ in range(MAX_NODES):
            if not queue or time.thread_time() > latest:
                return None
            _, _, _, text, matcher, place = heapq.heappop(queue)
            if matcher.is_accepting():
                return text
            allowed = allowed_bytes(matcher) & alphabet
            # Only what cannot end here has to be told apart by its length.
            length = 0 if _can_end(place, allowed) else len(place.scalar)
            key = (place.outline, place.quoted, length, allowed)
            alike[key] = alike.get(key, 0) + 1
            if alike[key] > (_ALIKE if place.quoted and length else 1):
                continue
            for step, ahead in self._steps(matcher, place, allowed, latest):
                there, said = place.after(step), text + step
                entry = (len(said) + there.least, -len(said), next(order))
                if alphabet.issuperset(step):
                    heapq.heappush(queue, (*entry, said, ahead, there))
        return None

    def _steps(
        self, matcher: Any, place: Place, allowed: frozenset[int], latest: float
    ) -> list[tuple[bytes, Any]]:
        """Texts that may come next, each with the matcher after it."""
        if place.quoted and not _can_end(place, allowed) and len(allowed) > 1:
            words = _follow(matcher, self._strings.shortest(place.scalar, latest))
            if words:
                return words[:_WORDS]
        if place.quoted and len(allowed) > _FEW:
            ends = _can_end(place, allowed)
            allowed = frozenset(b'"' if ends else preferred(allowed)[:_TRIED])
        elif not place.quoted and place.scalar and _can_end(place, allowed):
            allowed &= _ENDS
        words = []
        if not place.quoted and allowed & _NUMBER:
            words = _shortest_number(matcher)
            allowed -= _NUMBER
        single = [bytes([byte]) for byte in preferred(allowed)]
        return words + _follow(matcher, single)


def _can_end(place: Place, allowed: frozenset[int]) -> bool:
    """Whether the string, number or word that has begun may end here."""
    return not allowed.isdisjoint(b'"' if place.quoted else _ENDS)


def _follow(matcher: Any, texts: list[bytes]) -> list[tuple[bytes, Any]]:
    """Those `texts` that `matcher` allows, each with the matcher after it."""
    copies = [(text, matcher.deep_copy()) for text in texts]
    return [(text, ahead) for text, ahead in copies if takes(ahead, text)]


def _shortest_number(matcher: Any) -> list[tuple[bytes, Any]]:
    """What makes a number of what has begun, with the matcher after it; or nothing."""
    reached = [(b"", matcher)]
    for _ in range(_DIGITS):
        longer = []
        for text, ahead in reached:
            allowed = sorted(allowed_bytes(ahead))
            if text and (ahead.is_accepting() or not _ENDS.isdisjoint(allowed)):
                return [(text, ahead)]
            digits = [bytes([byte]) for byte in allowed if byte in _NUMBER]
            if len(longer) < _ALIKE_NUMBERS:
                steps = _follow(ahead, digits)
                longer += [(text + digit, after) for digit, after in steps]
        reached = longer[:_ALIKE_NUMBERS]
    return []
