"""Reading: every shape gives the same samples; what is left out is counted."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.errors import DataError
from fastvlm_mlx.train.data.read import QUESTION, read_samples
from fastvlm_mlx.train.data.report import DataReport
from fastvlm_mlx.train.data.samples import Sample
from tests.support.train_data import only, write

SHAPES: dict[str, dict[str, Any]] = {
    "llava": {
        "id": "x",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A cup."},
        ],
    },
    "llava, mark at the end": {
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "What is it?\n<image>"},
            {"from": "gpt", "value": "A cup."},
        ],
    },
    "llava, no mark": {
        "images": ["a.png"],
        "conversations": [
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": "A cup.\n"},
        ],
    },
    "openai": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "a.png"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
        ]
    },
    "openai, image part": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "a.png"},
                    {"type": "text", "text": "What is it?"},
                ],
            },
            {"role": "assistant", "content": "A cup."},
        ]
    },
    "openai, images of the row": {
        "images": ["a.png"],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}],
            },
            {"role": "assistant", "content": "A cup."},
        ],
    },
    "ollama": {
        "messages": [
            {"role": "user", "content": "What is it?", "images": ["a.png"]},
            {"role": "assistant", "content": "A cup."},
        ]
    },
    "question": {"question": "What is it?", "answer": "A cup.", "image": "a.png"},
    "questions of a list": {
        "prompt": "<image>What is it?",
        "response": "A cup.",
        "images": ["a.png"],
    },
    "caption": {"image": "a.png", "caption": "A cup.", "prompt": "What is it?"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str, folder: Path):
    file = write(folder / "data.jsonl", SHAPES[shape])
    sample = only(file)
    assert sample.turns == (("What is it?", "A cup."),)
    assert sample.images == (folder / "a.png",)
    assert sample.joining() == (1,)
    assert sample.origin == f"{file}:1" and sample.system is None


def test_all_shapes_in_one_list(folder: Path):
    file = folder / "data.json"
    file.write_text("\n" + json.dumps(list(SHAPES.values()), indent=1))
    samples, report = read_samples(folder)
    assert report.samples == 1 and report.duplicates == len(SHAPES) - 1
    assert samples[0].origin == f"{file}:3"
    assert "9 duplicates" in report.summary()


def test_several_turns_and_images(folder: Path):
    row = {
        "image": ["a.png", "sub/d.png", "b.png"],
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "<image>\n<image>\nWhich is red?"},
            {"from": "gpt", "value": "The first."},
            {"from": "human", "value": "And <image> this?"},
            {"from": "gpt", "value": "No."},
        ],
    }
    sample = only(write(folder / "x.jsonl", row))
    assert sample.images == tuple(folder / n for n in ("a.png", "sub/d.png", "b.png"))
    assert sample.turns == (("Which is red?", "The first."), ("And this?", "No."))
    assert sample.images_by_turn == (2, 1) and sample.system == "Be brief."


def test_messages_of_one_role_become_one(folder: Path):
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]},
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": "A cup"},
            {"role": "assistant", "content": "of tea"},
        ]
    }
    sample = only(write(folder / "x.jsonl", row))
    assert sample.turns == (("What?", "A cup\n\nof tea"),)
    assert sample.system == "Be brief.\n\nBe kind." and len(sample.images) == 1


def test_embedded_images_and_addresses(folder: Path):
    data = (folder / "a.png").read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    named = [url, "https://example.org/b.png", (folder / "c.png").as_uri(), "b.png"]
    row = {"question": "What?", "answer": "x", "images": named}
    sample = only(write(folder / "x.jsonl", row))
    files = (folder / "c.png", folder / "b.png")
    assert sample.images == (data, "https://example.org/b.png", *files)


def test_a_report_of_nothing():
    assert DataReport("x").summary() == "0 samples, 0 images"
    assert DataReport("x", samples=1, images=1, turns=2, text_only=1).summary() == (
        "1 sample, 1 image, 2 questions, 1 without an image"
    )


def test_samples_of_a_program():
    with pytest.raises(DataError, match="a sample: has no turns; give"):
        Sample(("a.png",), ())
    for counts in ((1,), (1, 1), (0, 0), (2, -1)):
        with pytest.raises(DataError, match=r"x:1: images_by_turn .*; give a number"):
            Sample(("a.png",), (("?", "x"), ("?", "y")), None, "x:1", counts)


def test_copies_and_repeated_rows_are_duplicates(folder: Path):
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    rows = [
        {"image": "a.png", "question": "What?", "answer": "A cup."},
        {"image": "./a.png", "question": "What?", "answer": "A cup. "},
        {"image": "copy.png", "question": "What?", "answer": "A cup."},
        {"image": "b.png", "question": "What?", "answer": "A cup."},
        {"image": "a.png", "question": "Why?", "answer": "A cup."},
        {"image": "a.png", "question": "What?", "answer": "A mug."},
    ]
    samples, report = read_samples(write(folder / "x.jsonl", *rows))
    assert [s.origin.rpartition(":")[2] for s in samples] == ["1", "4", "5", "6"]
    assert (report.duplicates, report.images) == (2, 2)


def test_text_only_samples_may_join_those_with_images(folder: Path):
    rows = [
        {"image": "a.png", "answer": "A cup."},
        {"question": "Hello", "answer": "Hi!"},
    ]
    samples, report = read_samples(write(folder / "x.jsonl", *rows))
    assert report.text_only == 1 and samples[1].images == ()
    assert samples[1].turns == (("Hello", "Hi!"),)


def test_a_mark_alone_is_the_usual_question(folder: Path):
    row = {
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "A cup."},
        ],
    }
    assert only(write(folder / "x.jsonl", row)).turns == ((QUESTION, "A cup."),)


def test_bad_rows_are_left_out_on_request(folder: Path):
    rows = [{"image": "a.png", "answer": "x"}, {"image": "z.png", "answer": "y"}]
    file = write(folder / "x.jsonl", *rows)
    samples, report = read_samples(file, strict=False)
    assert len(samples) == 1
    assert report.faults == (f"{file}:2: z.png: no such file",)
    assert report.summary().endswith("left out: 1 bad row")
