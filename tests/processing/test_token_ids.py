"""Ids in a tokenizer's files: which are taken, and what refuses the others."""

import json
import re
from pathlib import Path

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.processing.tokenizer import Tokenizer
from tests.support.small_tokenizers import MINI


def write_with(folder: Path, change: dict, added: dict | None = None) -> Path:
    """The small tokenizer with other ids of model.vocab, and of its added tokens."""
    whole = json.loads((MINI / "tokenizer.json").read_text(encoding="utf-8"))
    whole["model"]["vocab"] |= change
    for token in whole["added_tokens"]:
        token["id"] = (added or {}).get(token["content"], token["id"])
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("id", "shown"),
    [
        (1 << 20, "1048576"),
        (1 << 30, "1073741824"),
        ((1 << 31) - 1, "2147483647"),
        (1 << 32, "4294967296"),
        (-1, "-1"),
        (True, "true"),
        (1.5, "1.5"),
        (None, "null"),
        ("9", '"9"'),
        (10**99, f"1{'0' * 39}..."),
    ],
)
def test_ids_that_no_vocabulary_has(tmp_path: Path, id: object, shown: str):
    end = "not a number from 0 to 1048575); download it again"
    with pytest.raises(CheckpointError) as caught:
        Tokenizer(write_with(tmp_path, {"zz": id}))
    path = tmp_path / "tokenizer.json"
    assert str(caught.value) == f"{path}: damaged (the id of 'zz' is {shown}, {end}"
    with pytest.raises(CheckpointError, match=re.escape(f"'<|im_end|>' is {shown}, ")):
        Tokenizer(write_with(tmp_path, {}, {"<|im_end|>": id}))
    path.unlink()
    vocabulary = json.loads((MINI / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {"zz": id}))
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(CheckpointError, match=r"vocab.json: damaged \(the id of 'zz'"):
        Tokenizer(tmp_path)


def test_ids_of_the_largest_vocabulary_are_taken(tmp_path: Path):
    tokenizer = Tokenizer(write_with(tmp_path, {"zz": (1 << 20) - 1}))
    assert tokenizer.id("zz") == (1 << 20) - 1 and "zz" in tokenizer.to_json()


def test_ids_beyond_the_language_model_are_refused(tmp_path: Path):
    assert Tokenizer(write_with(tmp_path, {"zz": 1599}), 1600).id("zz") == 1599
    with pytest.raises(CheckpointError, match="the id of 'zz' is 1600, .* 0 to 1599"):
        Tokenizer(write_with(tmp_path, {"zz": 1600}), 1600)


def test_one_id_of_two_tokens_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError) as caught:
        Tokenizer(write_with(tmp_path, {"zz": 7}))
    token = Tokenizer(MINI)._tokenizer.id_to_token(7)
    assert f"damaged (the id 7 is that of {token!r} and of 'zz')" in str(caught.value)


@pytest.mark.parametrize(
    "eos", [[{}], {}, [[1]], -1, [5, -2], 1 << 20, 10**30, True, 1.5, "2", [None]]
)
def test_eos_token_ids_that_are_none(tmp_path: Path, eos: object):
    write_with(tmp_path, {})
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": eos}))
    with pytest.raises(CheckpointError) as caught:
        Tokenizer(tmp_path)
    assert str(caught.value) == (
        f"{path}: eos_token_id {json.dumps(eos)} is not a token's id or a list of them;"
        " download it again"
    )
