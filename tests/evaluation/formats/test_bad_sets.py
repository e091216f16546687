"""What is said of benchmarks with missing images, bad questions and broken files."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.formats.read import read_benchmark
from tests.support import benchmark_sets as sets


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_benchmark(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What each set says of an image that is not there.
MISSING: dict[str, tuple[Callable[..., Path], dict[str, Any], str]] = {
    "textvqa": (sets.textvqa, {"image_id": "x"}, "question 2: x.jpg: no such file"),
    "docvqa": (sets.docvqa, {}, ""),
    "infovqa": (sets.infovqa, {"image_local_name": None}, "question 1: has no image"),
    "chartqa": (sets.chartqa, {"imgname": "x.png"}, "question 1: x.png: no such file"),
    "gqa": (sets.gqa, {"imageId": "x"}, "question 201307251: x.jpg: no such file"),
    "pope": (sets.pope, {"image": "x.jpg"}, "adversarial.json:2: x.jpg: no such file"),
    "scienceqa": (sets.scienceqa, {"image": "x"}, "problem 11: 11/x: no such file"),
    "seedbench": (sets.seedbench, {"data_id": "x"}, "question 2: x: no such file"),
}


@pytest.mark.parametrize("name", MISSING)
def test_missing_images(tmp_path: Path, name: str):
    write, more, said = MISSING[name]
    write(tmp_path, **more)
    if name == "docvqa":
        (tmp_path / "spdocvqa_images" / "nkbl0226_1.png").unlink()
        said = "question 2: documents/nkbl0226_1.png: no such file"
    message = refusal(tmp_path)
    assert said in message
    if "no such file" in said:
        assert re.search(
            r"unpack the images into \S+/ beside it, or name their", message
        )
        assert "folder with --image-folder" in message


def test_images_above_the_data_file(tmp_path: Path):
    sets.textvqa(tmp_path / "a" / "b" / "c")
    (tmp_path / "a" / "b" / "c" / "train_images").rename(tmp_path / "train_images")
    (first, _) = read_benchmark(tmp_path).questions
    assert first.images[0] == tmp_path / "train_images" / "003a8ae2ef43b901.jpg"


def test_images_of_another_folder(tmp_path: Path):
    sets.textvqa(tmp_path / "a")
    elsewhere = tmp_path / "b"
    (tmp_path / "a" / "train_images").rename(elsewhere)
    assert "no such file" in refusal(tmp_path / "a")
    (first, _) = read_benchmark(tmp_path / "a", image_folder=elsewhere).questions
    assert first.images == (elsewhere / "003a8ae2ef43b901.jpg",)


# Changes to the second question, and what is said of it.
BAD: list[tuple[Callable[..., Path], dict[str, Any], str]] = [
    (sets.textvqa, {"question": ""}, "question 2: the question is empty"),
    (sets.textvqa, {"question_id": None}, "question 2: the id is missing"),
    (sets.textvqa, {"question_id": 34602}, "a second question has the id 34602"),
    (sets.docvqa, {"answers": ["", "x"]}, "question 2: the answer is empty"),
    (sets.docvqa, {"image": 7}, "question 2: the name of an image is no text"),
    (sets.pope, {"label": "maybe"}, "the label is neither yes nor no"),
    (sets.scienceqa, {"answer": 2}, "the answer C is none of the letters A to B"),
    (sets.scienceqa, {"answer": "B"}, "the answer is no number of a choice"),
    (sets.scienceqa, {"choices": "no"}, "a choice must be in a list"),
    (sets.seedbench, {"answer": "E"}, "the answer E is none of the letters A to D"),
    (sets.gqa, {"question": {"x": 1}}, "the question is no text"),
]


@pytest.mark.parametrize(("write", "more", "said"), BAD, ids=range(len(BAD)))
def test_bad_questions(
    tmp_path: Path, write: Callable[..., Path], more: dict[str, Any], said: str
):
    assert said in refusal(write(tmp_path, **more))


BROKEN = {
    '{"data": [': "TextVQA_0.5.1_val.json:1: not JSON (expecting value); download",
    "[" * 100_000: "TextVQA_0.5.1_val.json:1: not JSON (recursionerror); download",
    '{"data": {}}': 'no list under "data"; download the file again',
    "[]": 'no list under "data"; download the file again',
    '{"data": [1]}': "question 1 is no object; download the file again",
    '{"data": []}': "no question to ask; give a file that has some",
    "": "is empty; give a file with rows",
}


@pytest.mark.parametrize(("text", "said"), BROKEN.items(), ids=range(len(BROKEN)))
def test_broken_files(tmp_path: Path, text: str, said: str):
    path = tmp_path / "TextVQA_0.5.1_val.json"
    path.write_text(text)
    assert said in refusal(path)


def test_several_benchmarks(tmp_path: Path):
    sets.textvqa(tmp_path / "textvqa")
    sets.pope(tmp_path / "pope")
    message = refusal(tmp_path)
    assert "several benchmarks: textvqa (TextVQA_0.5.1_val.json), pope (" in message
    assert message.endswith("name the file, or choose one with --format")
    assert read_benchmark(tmp_path, format="pope").name == "pope"
    assert read_benchmark(tmp_path / "textvqa").name == "textvqa"


def test_a_format_that_is_not_there(tmp_path: Path):
    message = refusal(sets.pope(tmp_path), format="docvqa")
    assert message.endswith("no docvqa in it; give val_v1.0_withQT.json")


def test_folders_of_records_are_passed_over(tmp_path: Path):
    sets.textvqa(tmp_path)
    for number in range(101):  # such as what OCR found on each page
        sets.put_json(tmp_path / "ocr" / f"{number}.json", [{"imgname": 1}])
    assert read_benchmark(tmp_path).name == "textvqa"


def test_rows_of_another_shape(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"q": 1}]}))
    for name in ("docvqa", "infovqa", "textvqa"):
        assert "no question to ask" in refusal(path, format=name)
    for name in ("gqa", "chartqa", "pope", "seedbench", "scienceqa", "mmmu"):
        assert str(tmp_path) in refusal(path, format=name)
