"""Checks the ids in a tokenizer's files before a library takes them at their word.

`tokenizers` makes a list as long as the largest id: one of 2**31 takes 8 GB or ends
the process.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastvlm_mlx.errors import CheckpointError

MAX_IDS = 1 << 20  # four times the largest vocabulary of today's models


def check_vocabulary(path: Path, text: str, vocab_size: int | None = None) -> None:
    """Checks the ids in `text`, a tokenizer.json or vocab.json read from `path`.

    What is not JSON of the usual form is left to the library to refuse.

    Args:
        path: for the message.
        text: the file's content.
        vocab_size: of the language model, if known: ids that text can give are below.

    Raises:
        CheckpointError: an id is no id, too large, or belongs to two tokens.
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(whole, dict):
        return
    model = whole.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else whole
    ids: dict[str, Any] = vocabulary if isinstance(vocabulary, dict) else {}
    if ids is whole and "version" in whole:  # a tokenizer.json without a model
        return
    _check(path, ids.items(), min(vocab_size or MAX_IDS, MAX_IDS))
    if len(set(ids.values())) < len(ids):
        id = Counter(ids.values()).most_common(1)[0][0]
        tokens = [token for token in ids if ids[token] == id]
        raise CheckpointError(
            f"{path}: damaged (the id {id} is that of {tokens[0]!r:.60} and of"
            f" {tokens[1]!r:.60}); download it again"
        )
    added = whole.get("added_tokens") if ids is not whole else None
    if isinstance(added, list):
        entries = [entry for entry in added if isinstance(entry, dict)]
        named = [(str(entry.get("content")), entry.get("id", 0)) for entry in entries]
        _check(path, named, MAX_IDS)


def _check(path: Path, ids: Iterable[tuple[str, Any]], size: int) -> None:
    for token, id in ids:
        if type(id) is not int or not 0 <= id < size:
            raise CheckpointError(
                f"{path}: damaged (the id of {token!r:.60} is {_shown(id)}, not a"
                f" number from 0 to {size - 1}); download it again"
            )


def read_stop_ids(path: Path, value: Any) -> Sequence[int]:
    """The ids in `value`, the eos_token_id of the generation_config.json at `path`.

    Raises:
        CheckpointError: it is neither an id, a list of ids nor null.
    """
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for id in ids:
        if type(id) is not int or not 0 <= id < MAX_IDS:
            raise CheckpointError(
                f"{path}: eos_token_id {_shown(value)} is not a token's id or a list of"
                " them; download it again"
            )
    return ids


def _shown(value: Any) -> str:
    text = json.dumps(value)  # Python has read it from JSON, so this can be written
    return text if len(text) <= 60 else f"{text[:40]}..."
