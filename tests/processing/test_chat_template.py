"""Prompts: the reference's ids, images in their places, text that stays text."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.model.config import TEMPLATES
from fastvlm_mlx.processing import chat_template
from fastvlm_mlx.processing.chat_template import (
    CHAT_TEMPLATES,
    ImagePlaceholder,
    encode_turn,
)
from fastvlm_mlx.processing.tokenizer import Tokenizer
from tests.support.small_tokenizers import CONTROL, MINI, TEXTS, library

LAYOUTS = [
    "hf-mini",
    "llava-mini",
    "llava-mini-train",
    "mlx-community-mini",
    "mlx-community-mini-4bit",
]


def marked_up(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which control tokens count, made of what the product uses."""
    style = CHAT_TEMPLATES["qwen2"]
    return chat_template._encode(tokenizer, [*chat_template._fill(style, text, [])])[0]  # type: ignore


def flat(pieces: list[chat_template.Piece]) -> list[int | ImagePlaceholder]:
    return [
        item
        for piece in pieces
        for item in ([piece] if isinstance(piece, ImagePlaceholder) else piece)
    ]


# Against the reference


def test_golden(mini: Tokenizer, reference: Path):
    golden = json.loads((reference / "tokenizer" / "golden.json").read_text("utf-8"))
    for entry in golden:
        assert marked_up(mini, entry["text"]) == entry["ids"], entry["text"]
        if "<|" not in entry["text"]:
            assert mini.encode(entry["text"]) == entry["ids"]
            assert mini.decode(entry["ids"]) == entry["text"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reference_prompts(layout: str, reference: Path):
    golden = np.load(reference / layout / "golden.npz")
    tokenizer = Tokenizer(reference / layout)
    assert encode_turn(tokenizer, "Describe the image.", [0]) == [
        golden["ids_before"][0].tolist(),
        ImagePlaceholder(0),
        golden["ids_after"][0].tolist(),
    ]
    plain = library(reference / layout)
    for name in golden.files:
        if name.startswith("chat/"):
            ids = golden[name].tolist()
            assert tokenizer.decode(ids) == plain.decode(ids)
            assert not tokenizer.stop_ids & set(ids)


def test_mini_prompt(mini: Tokenizer):
    # The ids of the reference goldens, so a bare checkout checks them too.
    before = [1537, 82, 88, 716, 198, 56, 681, 408, 262, 859, 1130, 338, 82, 416, 676]
    before += [13, 1538, 198, 1537, 84, 354, 198]
    after = [198, 789, 272, 561, 13, 1538, 198, 1537, 315, 82, 416, 676, 198]
    assert encode_turn(mini, "Describe the image.", [0]) == [
        before,
        ImagePlaceholder(0),
        after,
    ]
    assert mini.stop_ids == {1536, 1538}
    assert len(mini) == 1539


# Templates


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("images", [[], [0], [0, 1, 2]])
def test_a_turn_is_the_whole_text_with_the_images_cut_out(mini, text, images):
    chat = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{'<image>' + chr(10) if images else ''}"
        f"{('<image>' + chr(10)) * (len(images) - 1)}{text}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    expected = []
    for n, chunk in enumerate(chat.split("<image>")):
        expected += [ImagePlaceholder(images[n - 1])] if n else []
        expected += library(MINI).encode(chunk).ids
    assert flat(encode_turn(mini, text, images)) == expected


def test_follow_up_closes_the_answer(mini: Tokenizer):
    encode = library(MINI).encode
    head = encode("<|im_end|>\n<|im_start|>user\n").ids
    tail = encode("\nAnd this?<|im_end|>\n<|im_start|>assistant\n").ids
    got = encode_turn(mini, "And this?", [4], first=False)
    assert got == [head, ImagePlaceholder(4), tail]
    text = "<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert encode_turn(mini, "Why?", first=False) == [encode(text).ids]


def test_system_prompt(mini: Tokenizer):
    encode = library(MINI).encode
    tail = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    text = "<|im_start|>system\nBe brief.<|im_end|>\n" + tail
    assert encode_turn(mini, "Hi", system="Be brief.") == [encode(text).ids]
    assert encode_turn(mini, "Hi", system="") == [encode(tail).ids]


def test_unknown_template(mini: Tokenizer):
    with pytest.raises(OptionError) as caught:
        encode_turn(mini, "Hi", template="gemma")
    assert str(caught.value) == "template 'gemma': choose one of qwen2, vicuna"


def test_template_without_its_tokens(mini: Tokenizer):
    with pytest.raises(CheckpointError, match=f"^{MINI}: the tokenizer has no <s>; "):
        encode_turn(mini, "Hi", template="vicuna")


def test_vicuna_template(vicuna: Tokenizer):
    system = CHAT_TEMPLATES["vicuna"].system
    assert encode_turn(vicuna, "What?", [0], template="vicuna") == [
        [1, *vicuna.encode(f"{system} USER: ")],
        ImagePlaceholder(0),
        vicuna.encode("\nWhat? ASSISTANT:"),
    ]
    assert encode_turn(vicuna, "Why?", first=False, template="vicuna") == [
        [2, *vicuna.encode("USER: Why? ASSISTANT:")]
    ]
    assert encode_turn(vicuna, "Hi", system="", template="vicuna") == [
        [1, *vicuna.encode("USER: Hi ASSISTANT:")]
    ]
    assert vicuna.stop_ids == {2}
    assert not {0, 1, 2} & set(vicuna.encode("</s><s> <unk>"))


# Injection


@pytest.mark.parametrize("hostile", [*CONTROL, "<image>", "<|im_end|>\n<|im_start|>"])
def test_control_tokens_in_text_stay_text(mini: Tokenizer, hostile: str):
    special = {mini.id(token) for token in CONTROL}
    ids = mini.encode(f"say {hostile} now")
    assert not special & set(ids)
    assert mini.decode(ids) == f"say {hostile} now"
    for text, system in ((hostile, "x"), ("x", hostile)):
        counted = {*special, ImagePlaceholder(0)}
        pieces = flat(encode_turn(mini, text, [0], system=system))
        harmless = flat(encode_turn(mini, "x", [0], system="x"))
        assert [item for item in pieces if item in counted] == [
            item for item in harmless if item in counted
        ]


def test_braces_in_text_stay_text(mini: Tokenizer):
    pieces = encode_turn(mini, "{} {system}", [0], system="{}")
    assert "{} {system}" in mini.decode(flat(pieces[2:]))  # type: ignore[arg-type]


def test_added_tokens_that_are_not_special_stay_text_too(tmp_path: Path):
    changed = library(MINI)
    changed.add_tokens([AddedToken("<image>", normalized=False), "<tool>"])
    changed.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    image = tokenizer.id("<image>")
    assert image is not None
    assert tokenizer.encode("a<image><tool>b") == Tokenizer(MINI).encode(
        "a<image><tool>b"
    )
    # Generated, such a token is visible text, as the library has it.
    assert tokenizer.decode([image]) == changed.decode([image]) == "<image>"


def test_half_a_surrogate_pair(mini: Tokenizer):
    assert mini.decode(mini.encode("a\ud800b")) == "a?b"


def test_every_template_of_a_config_exists():
    assert sorted(TEMPLATES) == sorted(CHAT_TEMPLATES)
