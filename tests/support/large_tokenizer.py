"""A tokenizer as large as Qwen2's, of its kind but not of its training."""

import itertools
import json
from pathlib import Path

from tests.support.small_tokenizers import MINI

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
SIZE = 151_646  # with the control tokens


def write(folder: Path) -> None:
    """The small tokenizer's settings over all single bytes, all pairs and most triples
    of printable ASCII characters: 151,643 entries, each of more than a byte a merge."""
    whole = json.loads((MINI / "tokenizer.json").read_text(encoding="utf-8"))
    bytes_first = sorted(whole["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [token for token, _ in bytes_first[:256]]
    characters = [chr(code) for code in range(33, 127)]
    pairs = [a + b for a, b in itertools.product(characters, repeat=2)]
    triples = (pair + last for pair in pairs for last in characters)
    tokens += pairs
    tokens += itertools.islice(triples, SIZE - len(CONTROL) - len(tokens))
    ids = {token: id for id, token in enumerate(tokens)}
    whole["model"] |= {
        "vocab": ids,
        "merges": [[token[:-1], token[-1]] for token in tokens[256:]],
    }
    for token in whole["added_tokens"]:
        token["id"] = len(tokens) + CONTROL.index(token["content"])
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
