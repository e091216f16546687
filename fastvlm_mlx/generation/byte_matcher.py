"""llguidance matchers over bytes: no model's vocabulary, microseconds a step."""

import functools
from typing import Any

from fastvlm_mlx.generation.json_schema import import_llguidance, limits

_END = 256


class _Bytes:
    """A vocabulary of the 256 bytes, as llguidance's TokenizerWrapper wants it."""

    eos_token_id = _END
    bos_token_id = None
    special_token_ids = (_END,)
    tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@functools.cache
def _tokenizer() -> Any:
    llguidance = import_llguidance()
    wrapper = llguidance.TokenizerWrapper(_Bytes())
    return llguidance.LLTokenizer(wrapper, eos_token=_END, slices=[])


def byte_matcher(grammar: str) -> Any:
    """A matcher whose tokens are bytes.

    Raises:
        FastVLMError: llguidance is not installed.
    """
    matcher = import_llguidance().LLMatcher
    return matcher(_tokenizer(), grammar, log_level=0, limits=limits())


def allowed_bytes(matcher: Any) -> frozenset[int]:
    """The bytes that may come next."""
    mask = matcher.compute_bitmask()
    if matcher.is_error():
        return frozenset()
    return _bytes_of(mask[: _END // 8])


def takes(matcher: Any, text: bytes) -> bool:
    """Whether `text` may come next; if so, `matcher` has consumed it."""
    # Not consume_tokens: it describes what it refuses, which takes a millisecond.
    return matcher.try_consume_tokens(list(text)) == len(text)


@functools.lru_cache(4096)
def _bytes_of(mask: bytes) -> frozenset[int]:
    bits = int.from_bytes(mask, "little")
    return frozenset(byte for byte in range(_END) if bits >> byte & 1)
