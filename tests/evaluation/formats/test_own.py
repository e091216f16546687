"""Own questions (`fastvlm_mlx/evaluation/formats/own.py`)."""

import json
from pathlib import Path

import pytest

from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.formats.read import read_benchmark
from fastvlm_mlx.evaluation.question import OPTION_LETTER, prompt_of
from fastvlm_mlx.processing.image_file import open_image
from tests.support.doc_blocks import blocks
from tests.support.paths import EXAMPLES
from tests.support.pdf_files import number_of, numbered_page, pages_of


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("cat.png", "dog.png"):
        (tmp_path / name).write_bytes(b"never opened")
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        read_benchmark(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_bundled_examples():
    found = read_benchmark(EXAMPLES)
    assert (found.name, found.metric, found.suffix) == ("own", "exact", "")
    assert len(found.questions) == 76
    second = found.questions[1]
    assert second.text == "What colour is the cross?"
    assert (second.answers, second.category) == (("purple",), "colour")
    assert second.id == "shapes.png:2"
    assert second.images == (EXAMPLES / "shapes.png",)
    assert second.origin.endswith("questions.json: shapes.png, question 2")


def test_pages_of_a_pdf(place: Path):
    pages_of(place / "scan.pdf", [numbered_page(number) for number in (5, 6, 7)])
    text = "image,question,answer\nscan.pdf#page=3,Which?,7\nscan.pdf#page=2,Which?,6\n"
    found = read_benchmark(write(place / "set.csv", text))
    for question in found.questions:
        (image,) = question.load_images()
        assert str(number_of(open_image(image, long_side=80))) == question.answers[0]
    missing = write(place / "bad.csv", text.replace("scan", "scam"))
    assert "bad.csv:2: scam.pdf: no such file" in refusal(missing)


def test_a_table(place: Path):
    text = "image,question,answer,category\ncat.png,Animal?,cat|kitten,a\n"
    path = write(place / "set.csv", text + "dog.png,Tail?,yes,b\n")
    found = read_benchmark(path)
    assert found.label == "set.csv"
    first, second = found.questions
    assert first.answers == ("cat", "kitten")
    assert (first.id, second.id) == ("2", "3")
    assert (second.category, second.origin) == ("b", f"{path}:3")
    assert second.images == (place / "dog.png",)
    assert prompt_of(second, found.suffix) == "Tail?"
    assert prompt_of(second, "Short.") == "Tail?\nShort."


def test_true_and_numbers_of_json(place: Path):
    rows = [
        {"image": "cat.png", "question": "?", "answer": answer}
        for answer in (True, 3, 2.5, [False, "no"])
    ]
    path = write(place / "a.jsonl", "\n".join(map(json.dumps, rows)))
    answers = [question.answers for question in read_benchmark(path).questions]
    assert answers == [("true",), ("3",), ("2.5",), ("false", "no")]


def test_lines_of_json_with_several_images_and_answers(place: Path):
    row = {
        "id": 0,
        "images": ["cat.png", "https://example.com/x.png"],
        "question": "Which?",
        "answers": ["a|b", "c"],
    }
    (question,) = read_benchmark(write(place / "set.jsonl", json.dumps(row))).questions
    assert question.images == (place / "cat.png", "https://example.com/x.png")
    assert question.answers == ("a|b", "c")
    assert question.id == "0"


@pytest.mark.parametrize("answer", ["B", "a dog"])
def test_choices_are_lettered(place: Path, answer: str):
    text = f"image,question,choices,answer\ncat.png,Animal?,cat|a dog,{answer}\n"
    found = read_benchmark(write(place / "set.csv", text))
    (question,) = found.questions
    assert (found.metric, found.suffix) == ("letter", OPTION_LETTER)
    assert question.text == "Animal?\nA. cat\nB. a dog"
    assert (question.answers, question.choices) == (("B",), ("cat", "a dog"))


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        (["yes", "no"], "exact"),
        (["x" * 41, "no"], "text"),
        ([{"total": 3}, '{"total": 4}'], "fields"),
    ],
)
def test_the_metric_goes_by_the_answers(place: Path, answers: list, metric: str):
    rows = [
        json.dumps({"image": "cat.png", "question": "?", "answer": answer})
        for answer in answers
    ]
    assert read_benchmark(write(place / "a.jsonl", "\n".join(rows))).metric == metric


def test_images_of_another_folder(place: Path, tmp_path: Path):
    (elsewhere := tmp_path / "deep" / "er").mkdir(parents=True)
    path = write(elsewhere / "a.csv", "image,question,answer\ncat.png,Q,A\n")
    assert "cat.png: no such file" in refusal(path)
    (question,) = read_benchmark(path, image_folder=place).questions
    assert question.images == (place / "cat.png",)


@pytest.mark.parametrize(("language", "suffix"), [("csv", ".csv"), ("json", ".jsonl")])
def test_the_examples_of_the_documentation(place: Path, language: str, suffix: str):
    (block,) = (
        block
        for block in blocks()
        if block.page == "docs/eval-data.md" and block.language == language
    )
    for name in ("a.png", "b.png", "c.png", "receipts/1.jpg"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"never opened")
    if suffix == ".csv":
        first, _ = read_benchmark(write(place / "a.csv", block.text)).questions
        assert (first.answers, first.category) == (("12.40", "12.4"), "total")
    else:
        several, choice = block.text.strip().split("\n")
        (first,) = read_benchmark(write(place / "a.jsonl", several)).questions
        assert len(first.images) == 2 and first.answers == ("a", "the first")
        (second,) = read_benchmark(write(place / "b.jsonl", choice)).questions
        assert second.answers == ("B",)


BAD = {
    "image,question,answer\nbird.png,Q,A\n": "a.csv:2: bird.png: no such file; correct",
    "image,question,answer\n,Q,A\n": "a.csv:2: has no image; correct",
    "image,question,answer\ncat.png, ,A\n": "a.csv:2: the question is empty; correct",
    "image,question,answer\ncat.png,Q,\n": "a.csv:2: the answer is missing; correct",
    "image,question,answer\ncat.png,Q\n": "a.csv:2: 2 fields for 3 columns; correct",
    "image,question,answer\n": "a.csv: no question to ask; give a file that has some",
    "image,answer\ncat.png,A\n": "begin with a line such as image,question,answer",
    "": "a.csv: is empty; give a file with rows",
    "id,image,question,answer\n1,cat.png,Q,A\n1,dog.png,Q,A\n": (
        "a.csv:3: a second question has the id 1; correct it or take it out"
    ),
    "image,question,choices,answer\ncat.png,Q,x|y,z\n": (
        "a.csv:2: the answer z is none of the letters A to B of its choices; correct"
    ),
    "image,question,choices,answer\ncat.png,Q,B|A,A\n": (
        "a.csv:2: the answer A may be choice A or B; correct"
    ),
    "image,question,choices,answer\ncat.png,Q,B|C,A\ncat.png,Q,,A\n": (
        "a.csv:3: has no choices, others have; put it into another file"
    ),
}


@pytest.mark.parametrize(("text", "said"), BAD.items(), ids=range(len(BAD)))
def test_bad_tables(place: Path, text: str, said: str):
    assert said in refusal(write(place / "a.csv", text))


def test_faults_are_counted(place: Path):
    rows = "".join(f"bird{n}.png,Q,A\n" for n in range(5))
    said = refusal(write(place / "a.csv", "image,question,answer\n" + rows))
    assert said.startswith("5 bad questions: ")
    assert said.endswith("and 2 more; correct them or take them out")


def test_json_without_questions(place: Path):
    assert "questions.json:1: the question is missing" in refusal(
        write(place / "questions.json", "{}")
    )
    lists = '{"cat.png": [], "dog.png": []}'
    assert "no question to ask" in refusal(write(place / "questions.json", lists))


def test_json_answers_keep_their_letters(place: Path):
    row = {"image": "cat.png", "question": "?", "answer": {"name": "Zoë"}}
    (question,) = read_benchmark(write(place / "a.jsonl", json.dumps(row))).questions
    assert question.answers == ('{"name": "Zoë"}',)


def test_several_data_files(place: Path):
    for name in ("a.csv", "b.csv"):
        write(place / name, "image,question,answer\ncat.png,Q,A\n")
    said = refusal(place)
    assert "several data files (a.csv, b.csv); name one, such as" in said
    assert said.endswith(str(place / "a.csv"))


def test_nothing_there(place: Path):
    assert "no benchmark is recognized in it; give its data file" in refusal(place)
    assert "x: no such file or folder; check the path" in refusal(place / "x")
    assert "format vqa: choose one of " in refusal(place, format="vqa")
    assert "no such folder; check --image-folder" in refusal(place, image_folder="n/a")
