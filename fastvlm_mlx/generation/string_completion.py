"""The shortest end of a string that a schema's patterns, formats and lengths allow.

With `maxLength` n beside a pattern, llguidance allows only what can still match within
n characters. The least n that allows what the string has so far therefore leads
straight to its shortest end.
"""

import functools
import json
import time
from collections.abc import Iterator
from typing import Any

from fastvlm_mlx.generation.byte_matcher import allowed_bytes, byte_matcher, takes
from fastvlm_mlx.generation.json_schema import grammar_of

MAX_LENGTH = 1 << 14  # characters of a string
MAX_SUBSCHEMAS = 100  # that are looked at
# Keywords of a schema whose strings may need more than a quote to end.
_DEMANDING = frozenset(
    ("pattern", "format", "minLength", "allOf", "anyOf", "oneOf", "$ref")
)
_PLAIN = b"aA0 _-.@"  # tried first: what any string may hold
_LAST = (*b'\\"', *range(128, 256))
_ORDER = tuple(dict.fromkeys((*_PLAIN, *sorted(set(range(256)) - {*_LAST}), *_LAST)))


class StringCompletions:
    """The shortest ends of strings under the subschemas of `schema`."""

    def __init__(self, schema: Any):
        found = {json.dumps(part): part for part in _subschemas(schema)}
        self._parts = list(found.values())[:MAX_SUBSCHEMAS]
        definitions = ("$defs", "definitions")
        self._shared = {
            name: schema[name]
            for name in definitions
            if isinstance(schema, dict) and name in schema
        }
        self._known: dict[bytes, list[bytes]] = {}
        self._matcher = functools.lru_cache(1000)(self._make_matcher)

    def shortest(self, begun: bytes, latest: float) -> list[bytes]:
        """What completes the string `begun` (its JSON, quote included), the shortest.

        One text for each subschema that allows what has begun; none if that takes until
        `time.thread_time()` is `latest`.
        """
        if begun in self._known:
            return self._known[begun]
        found: set[bytes] = set()
        for part in range(len(self._parts)):
            if time.thread_time() > latest:
                return []
            text = self._complete(part, begun)
            if text:
                found.add(text)
        # Of two that are as long, the one that comes first in the alphabet.
        self._known[begun] = sorted(sorted(found), key=len)
        return self._known[begun]

    def _complete(self, part: int, begun: bytes) -> bytes | None:
        if not self._follow(part, None, begun):
            return None
        high = 1
        while not self._follow(part, high, begun):
            high *= 2
            if high > MAX_LENGTH:
                return None
        low = high // 2 if high > 1 else -1  # too little
        while high - low > 1:
            middle = (low + high) // 2
            if self._follow(part, middle, begun):
                high = middle
            else:
                low = middle
        matcher, text = self._follow(part, high, begun), b""
        while not text.endswith(b'"') or text.endswith(b'\\"'):
            allowed = allowed_bytes(matcher)
            if not allowed:
                return None
            byte = ord('"') if ord('"') in allowed else preferred(allowed)[0]
            matcher.consume_token(byte)
            text += bytes([byte])
        return text

    def _follow(self, part: int, length: int | None, begun: bytes) -> Any:
        """A matcher of `part` after `begun`, None if it allows no such string."""
        matcher = self._matcher(part, length)
        if matcher is None:
            return None
        matcher = matcher.deep_copy()
        return matcher if takes(matcher, begun) else None

    def _make_matcher(self, part: int, length: int | None) -> Any:
        bound = {"type": "string"} | ({} if length is None else {"maxLength": length})
        try:
            grammar = grammar_of(self._shared | {"allOf": [self._parts[part], bound]})
        except ValueError:
            return None
        matcher = byte_matcher(grammar)
        return None if matcher.is_error() else matcher


@functools.lru_cache(4096)
def preferred(allowed: frozenset[int]) -> list[int]:
    """`allowed` bytes, plain characters first, escapes and parts of characters last."""
    return [byte for byte in _ORDER if byte in allowed]


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """The schemas in `schema` whose strings may need more than a quote to end."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if not _DEMANDING.isdisjoint(part):
                yield part
            keys = part.get("patternProperties")
            if isinstance(keys, dict):
                yield from ({"pattern": pattern} for pattern in keys)
            waiting.extend(part.values())
        elif isinstance(part, list):
            waiting.extend(part)
