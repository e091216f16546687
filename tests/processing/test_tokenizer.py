"""Tokenizers: every form of the files, streams that never break a character."""

import json
import os
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.processing.chat_template import encode_turn
from fastvlm_mlx.processing.tokenizer import Tokenizer
from tests.support import large_tokenizer
from tests.support.paths import TESTS
from tests.support.small_tokenizers import CONTROL, MINI, TEXTS, library

# Decoding


def random_ids(size: int, count: int) -> list[list[int]]:
    rng = random.Random(0)
    lists = [rng.choices(range(size), k=rng.randint(1, 20)) for _ in range(count)]
    # The first 256 ids are single bytes, mostly not UTF-8.
    return lists + [[id % 256 for id in ids] for ids in lists]


def test_decode_is_the_library_s(mini: Tokenizer):
    plain = library(MINI)
    for ids in random_ids(len(mini) + 61, 1000):
        assert mini.decode(ids) == plain.decode(ids), ids


@pytest.mark.parametrize("text", TEXTS)
def test_stream_gives_whole_characters(mini: Tokenizer, text: str):
    stream, chunks = mini.stream(), []
    for id in mini.encode(text):
        chunks.append(stream.push(id))
        assert "\ufffd" not in chunks[-1]
        assert text.startswith("".join(chunks))
    assert "".join(chunks) == text
    assert stream.finish() == ""


def test_stream_of_one_character_in_many_tokens(mini: Tokenizer):
    ids = mini.encode("👩")
    assert len(ids) > 1
    stream = mini.stream()
    assert [stream.push(id) for id in ids] == [""] * (len(ids) - 1) + ["👩"]
    cut = mini.stream()
    assert cut.push(ids[0]) == ""
    assert cut.finish() == "\ufffd"


def test_ids_beyond_the_vocabulary_break_nothing(mini: Tokenizer):
    first, *rest = mini.encode("👩!")
    stream = mini.stream()
    ids = [first, 1599, 10**7, 2**40, -1, 1537, *rest]
    assert "".join(map(stream.push, ids)) + stream.finish() == "👩!"


# Reading


def qwen2_files(folder: Path, source: Path) -> None:
    """What Apple's release holds: vocab.json and merges.txt, no tokenizer.json."""
    whole = json.loads((source / "tokenizer.json").read_text())
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in whole["model"]["merges"]
    ]
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    added = {token["content"]: token["id"] for token in whole["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added))


@pytest.mark.parametrize("with_config", [True, False])
def test_vocabulary_and_merges(tmp_path: Path, mini: Tokenizer, with_config: bool):
    qwen2_files(tmp_path, MINI)
    if with_config:
        (tmp_path / "added_tokens.json").unlink()
        config = (MINI / "tokenizer_config.json").read_bytes()
        (tmp_path / "tokenizer_config.json").write_bytes(config)
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.stop_ids == mini.stop_ids
    for text in [*TEXTS, *CONTROL, "e\u0301"]:
        assert tokenizer.encode(text) == mini.encode(text)
        assert encode_turn(tokenizer, text, [0]) == encode_turn(mini, text, [0])
    for ids in random_ids(len(mini) + 61, 50):
        assert tokenizer.decode(ids) == mini.decode(ids)


def test_vocabulary_and_merges_of_the_real_size(tmp_path: Path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    parts.mkdir()
    large_tokenizer.write(whole)
    qwen2_files(parts, whole)
    tokenizer, same, plain = Tokenizer(parts), Tokenizer(whole), library(whole)
    assert len(tokenizer) == len(same) == large_tokenizer.SIZE
    assert tokenizer.stop_ids == {151643, 151645}
    text = "\n".join(TEXTS) + (TESTS / "conftest.py").read_text()
    ids = tokenizer.encode(text)
    assert ids == same.encode(text) == plain.encode(text).ids
    assert max(ids) > 2**16
    for some in [ids, *random_ids(len(tokenizer) + 61, 200)]:
        assert tokenizer.decode(some) == plain.decode(some)


def test_save(tmp_path: Path, mini: Tokenizer):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    qwen2_files(source, MINI)
    Tokenizer(source).save(target)
    for text in [*TEXTS, "<|im_start|>user"]:
        assert library(target).encode(text).ids == library(MINI).encode(text).ids


@pytest.mark.parametrize(
    ("eos", "expected"),
    [
        ({"eos_token": "!"}, {0, 1536, 1538}),
        ({"eos_token": {"content": "!"}}, {0, 1536, 1538}),
        ({"eos_token": None}, {1536, 1538}),
        ({"eos_token": "<no such token>"}, {1536, 1538}),
    ],
)
def test_stop_ids(tmp_path: Path, eos: dict, expected: set[int]):
    (tmp_path / "tokenizer.json").write_bytes((MINI / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(eos))
    assert Tokenizer(tmp_path).stop_ids == expected
    for value, more in ((7, {7}), ([7, 8], {7, 8}), (None, set())):
        generation = json.dumps({"eos_token_id": value})
        (tmp_path / "generation_config.json").write_text(generation)
        assert Tokenizer(tmp_path).stop_ids == expected | more


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "{}: no tokenizer.json (or vocab.json with merges.txt); copy it"),
        ({"vocab.json": "{}"}, "{}: no tokenizer.json (or vocab.json"),
        ({"tokenizer.json": ""}, "{}/tokenizer.json: is empty; download the file"),
        ({"tokenizer.json": "\0" * 9}, "{}/tokenizer.json: holds only zeros; down"),
        ({"tokenizer.json": '{"model":'}, "{}/tokenizer.json: damaged ("),
        ({"vocab.json": "[", "merges.txt": "a b"}, "{}/vocab.json: damaged ("),
        (
            {"vocab.json": '{"a": 0}', "merges.txt": "", "added_tokens.json": "[]"},
            "{}/added_tokens.json: holds a list, not an object",
        ),
        (
            {
                "vocab.json": '{"a": 0}',
                "merges.txt": "",
                "added_tokens.json": '{"<s>": "x"}',
            },
            "{}/added_tokens.json: the added tokens are malformed",
        ),
        (
            {
                "vocab.json": '{"a": 0}',
                "merges.txt": "",
                "added_tokens.json": '{"b":9}',
            },
            "{}: the id 9 of b does not follow vocab.json; copy tokenizer.json",
        ),
        (
            {"mini": "", "tokenizer_config.json": "{"},
            "{}/tokenizer_config.json: not valid JSON (",
        ),
        (
            {"mini": "", "generation_config.json": "7"},
            "{}/generation_config.json: holds a int, not an object",
        ),
    ],
)
def test_damaged_folders(tmp_path: Path, files: dict[str, str], message: str):
    for name, content in files.items():
        if name == "mini":
            whole = (MINI / "tokenizer.json").read_bytes()
            (tmp_path / "tokenizer.json").write_bytes(whole)
        else:
            (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        Tokenizer(tmp_path)
    print(caught.value)
    assert str(caught.value).startswith(message.format(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["version", "truncation"])
def test_a_long_text_in_a_damaged_file_is_not_quoted_whole(tmp_path: Path, field: str):
    values = json.loads((MINI / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(values | {field: "x " * 5000}))
    with pytest.raises(CheckpointError) as caught:
        Tokenizer(tmp_path)
    message = str(caught.value)
    start = f"{tmp_path}/tokenizer.json: damaged ("
    assert message.startswith(start) and message.endswith("); download it again")
    assert 100 < len(message) - len(start) < 230


# Llama


@pytest.mark.parametrize(
    "text", ["he said", "", " two  spaces ", "中文 👩‍👧 é\n", "</s>"]
)
def test_sentencepiece_round_trip(vicuna: Tokenizer, text: str):
    ids = vicuna.encode(text)
    assert vicuna.decode(ids) == text == library(vicuna.folder).decode(ids)


def test_sentencepiece_decode_is_the_library_s(vicuna: Tokenizer):
    # Over valid UTF-8; of broken bytes the library makes one U+FFFD each.
    plain = library(vicuna.folder)
    for ids in random_ids(len(vicuna) + 9, 500)[:500]:
        ids = [id for id in ids if not 3 + 128 <= id < 3 + 256]
        assert vicuna.decode(ids) == plain.decode(ids), ids


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), None])
def test_other_kinds_of_tokenizer_are_refused(tmp_path: Path, decoder):
    other = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    if decoder is not None:
        other.decoder = decoder
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="neither byte-level BPE nor sentencepie"):
        Tokenizer(tmp_path)


def test_texts_are_neither_cut_off_nor_padded(tmp_path: Path, mini: Tokenizer):
    whole = tokenizers.Tokenizer.from_file(str(MINI / "tokenizer.json"))
    whole.enable_truncation(4)
    whole.enable_padding(length=1000)
    whole.save(str(tmp_path / "tokenizer.json"))
    text = "one two three four five six seven"
    assert Tokenizer(tmp_path).encode(text) == mini.encode(text)


def test_a_byte_order_mark(tmp_path: Path, mini: Tokenizer):
    text = (MINI / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8-sig")
    assert Tokenizer(tmp_path).encode(TEXTS[0]) == mini.encode(TEXTS[0])
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-16")
    assert refused(tmp_path) == "is UTF-16 or UTF-32 text; save it as UTF-8"


def test_a_tokenizer_that_is_no_file(tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    os.mkfifo(file)
    assert refused(tmp_path).startswith("is a pipe, not a file")
    file.unlink()
    file.symlink_to("nowhere")
    assert refused(tmp_path).endswith("it is a link to nothing, get the file again")
    file.unlink()
    file.mkdir()
    assert refused(tmp_path).startswith("is a folder, not a file")


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Tokenizer(folder)
    return str(caught.value).removeprefix(f"{folder}/tokenizer.json: ")
