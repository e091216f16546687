"""Writes tokens' log-probabilities as both protocols do, which agree on a token's."""

from collections.abc import Iterable, Iterator
from typing import Any

from fastvlm_mlx.generation.logprobs import TokenLogprob

# What OpenAI writes for a token that is all but impossible; JSON has no infinity.
_LEAST = -9999.0


def written(
    entries: Iterable[TokenLogprob],
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each token with its `top_logprobs`. A control token's bytes are null."""
    for entry in entries:
        yield _token(entry), [_token(other) for other in entry.top]


def _token(entry: TokenLogprob) -> dict[str, Any]:
    return {
        "token": entry.text,
        "logprob": max(entry.logprob, _LEAST),
        "bytes": None if entry.utf8 is None else list(entry.utf8),
    }
