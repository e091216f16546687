"""Tables of VLMEvalKit (`formats/vlmevalkit.py`, `data/large_table.py`)."""

from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.data.stored_image import Base64Slice
from fastvlm_mlx.errors import DataError, ImageError
from fastvlm_mlx.evaluation.formats import vlmevalkit
from fastvlm_mlx.evaluation.formats.read import read_benchmark
from fastvlm_mlx.evaluation.question import OPTION_LETTER, SHORT_ANSWER, prompt_of
from tests.support import benchmark_tables as sets
from tests.support.benchmark_sets import put_image


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_benchmark(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def table(path: Path, *rows: dict[str, Any]) -> Path:
    first = {"index": 0, "image": sets.base64_of(0), "question": "Q", "answer": "x"}
    names = {name: "" for row in rows for name in row}
    full = ({**names, **first, "index": n, **row} for n, row in enumerate(rows))
    return sets.tsv(path, list(full))


def test_ai2d(tmp_path: Path):
    found = read_benchmark(sets.ai2d(tmp_path))
    assert (found.name, found.label) == ("ai2d", "AI2D test")
    assert (found.metric, found.suffix) == ("letter", OPTION_LETTER)
    first, second = found.questions
    assert first.choices == ("c", "D", "b", "a") and first.answers == ("B",)
    assert (first.id, first.category) == ("0", "foodChainsWebs")
    assert prompt_of(first, found.suffix) == (
        "which of these define dairy item\nA. c\nB. D\nC. b\nD. a\n" + OPTION_LETTER
    )
    # A question with quotes and a line end, two options, and the image of row 0.
    assert second.text == 'what is "x"?\nSay it.\nA. c\nB. D'
    assert second.images == first.images
    assert second.load_images() == (sets.image_bytes(1),)


def test_images_are_read_when_they_are_needed(tmp_path: Path):
    path = sets.ai2d(tmp_path)
    (image,) = read_benchmark(path).questions[0].images
    assert isinstance(image, Base64Slice)
    text = path.read_bytes()
    assert text[image.start : image.start + image.length].decode() == sets.base64_of(1)


def test_an_image_that_is_no_base64(tmp_path: Path):
    path = table(tmp_path / "Mine.tsv", {"image": "?" * 65, "answer": "x"})
    (question,) = read_benchmark(path).questions
    with pytest.raises(ImageError) as caught:
        question.load_images()
    assert str(caught.value) == (
        f"{path}:2: the image is not base64; download the file again"
    )


def test_realworldqa(tmp_path: Path):
    path = table(
        tmp_path / "RealWorldQA.tsv",
        {"A": "Left", "B": "Right", "answer": "A"},
        {"answer": "3"},
    )
    found = read_benchmark(path)
    assert (found.name, found.metric) == ("realworldqa", "letter")
    first, second = found.questions
    assert prompt_of(first, found.suffix).endswith("B. Right\n" + OPTION_LETTER)
    # One without options is not asked for a letter.
    assert prompt_of(second, found.suffix) == f"Q\n{SHORT_ANSWER}"


def test_hint_goes_before_the_question(tmp_path: Path):
    path = table(
        tmp_path / "MMBench_DEV_EN.tsv",
        {"hint": "H", "A": "a", "B": "b", "answer": "B"},
    )
    found = read_benchmark(path)
    assert (found.name, found.label) == ("mmbench_dev_en", "MMBench_DEV_EN")
    assert found.questions[0].text == "H\nQ\nA. a\nB. b"


def test_textvqa_has_several_answers(tmp_path: Path):
    answers = ["nokia", 'it\'s "N"', "nokia"]
    path = table(tmp_path / "TextVQA_VAL.tsv", {"answer": str(answers)})
    found = read_benchmark(path)
    assert (found.name, found.metric, found.suffix) == ("textvqa", "vqa", SHORT_ANSWER)
    assert found.questions[0].answers == tuple(answers)


def test_chartqa_goes_by_split(tmp_path: Path):
    path = table(
        tmp_path / "ChartQA_TEST.tsv",
        {"split": "test_human"},
        {"split": "test_augmented"},
    )
    found = read_benchmark(path)
    assert found.metric == "relaxed"
    assert [q.category for q in found.questions] == ["test_human", "test_augmented"]


def test_mmmu_is_its_validation_set(tmp_path: Path):
    images = str([sets.base64_of(1), sets.base64_of(2)])
    options = {"A": "a", "B": "b", "answer": "A", "category": "Art"}
    path = table(
        tmp_path / "MMMU_DEV_VAL.tsv",
        {"split": "dev", **options},
        {"split": "validation", "image": images, **options},
    )
    found = read_benchmark(path)
    assert (found.name, found.metric) == ("mmmu", "mmmu")
    assert found.notes == ("1 question is left out: it is of the split dev",)
    (question,) = found.questions
    assert question.load_images() == (sets.image_bytes(1), sets.image_bytes(2))


def test_ocrbench_has_no_suffix(tmp_path: Path):
    path = table(tmp_path / "OCRBench.tsv", {"answer": "['A', 'B']", "category": "c"})
    found = read_benchmark(path)
    assert (found.metric, found.suffix) == ("contained", "")
    assert prompt_of(found.questions[0], found.suffix) == "Q"


def test_the_metric_of_a_table_by_its_questions(tmp_path: Path):
    def metric(*rows: dict[str, Any]) -> str:
        return read_benchmark(table(tmp_path / "Mine.tsv", *rows)).metric

    assert metric({"answer": "Yes"}, {"answer": "No"}) == "yes_no"
    assert metric({"answer": "Yes"}, {"answer": "x"}) == "exact"
    assert metric({"answer": "['a', 'b']"}) == "vqa"
    assert metric({"A": "a", "B": "b", "answer": "A"}) == "letter"


def test_images_as_files(tmp_path: Path):
    put_image(tmp_path / "images" / "Mine" / "1.png")
    row = {"index": "a", "image_path": "1.png", "question": "Q", "answer": "x"}
    path = sets.tsv(tmp_path / "Mine.tsv", [row])
    (question,) = read_benchmark(path).questions
    assert question.images == (tmp_path / "images" / "Mine" / "1.png",)
    path = sets.tsv(path, [{**row, "image_path": "2.png"}])
    assert "Mine.tsv:2: 2.png: no such file" in refusal(path)


def test_a_long_path_is_no_base64(tmp_path: Path):
    name = f"{'long' * 20}.png"
    put_image(tmp_path / name)
    path = table(tmp_path / "Mine.tsv", {"image": name})
    assert read_benchmark(path).questions[0].images == (tmp_path / name,)


def test_what_is_left_out(tmp_path: Path):
    path = table(
        tmp_path / "Mine.tsv", {"answer": ""}, {"image": ""}, {}, {"answer": ""}
    )
    found = read_benchmark(path)
    assert [question.id for question in found.questions] == ["2"]
    assert found.notes == (
        "2 questions are left out: no answer is published for it",
        "1 question is left out: it has no image",
    )


BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": "7"}, ":2: the image is that of row 7, which has none"),
    ({"question": ""}, ":2: the question is empty"),
    ({"index": ""}, ":2: the id is empty"),
    ({"A": "a", "C": "c", "B": "", "answer": "A"}, ":2: a choice is empty"),
    ({"A": "a", "B": "b", "answer": "C"}, ":2: the answer C is none of the letters"),
]


@pytest.mark.parametrize(("row", "said"), BAD, ids=range(len(BAD)))
def test_bad_rows(tmp_path: Path, row: dict[str, Any], said: str):
    message = refusal(table(tmp_path / "Mine.tsv", row))
    assert said in message and message.endswith("; download the file again")


def test_broken_tables(tmp_path: Path):
    head = "index\timage\tquestion\tanswer\n"
    path = tmp_path / "Mine.tsv"
    path.write_text(head + "1\tx\n")
    assert ":2: 2 fields for 4 columns; download the file again" in refusal(path)
    path.write_text(head + '1\tx\t"Q\ty\n2\tx\tQ\ty\n')
    assert ":2: a quotation mark opens a field and none closes it" in refusal(path)
    path.write_text(head)
    assert "no question to ask; give a file that has some" in refusal(path)
    for name in ("A.tsv", "B.tsv"):
        table(tmp_path / "two" / name, {})
    assert "holds several data files (A.tsv, B.tsv); name one" in refusal(
        tmp_path / "two"
    )


def test_a_mark_at_the_beginning_and_windows_line_ends(tmp_path: Path):
    path = table(tmp_path / "Mine.tsv", {"answer": "é"})
    text = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text)
    (question,) = read_benchmark(path).questions
    assert question.answers == ("é",)
    assert question.load_images() == (sets.image_bytes(0),)


@pytest.mark.parametrize(
    ("head", "ours"),
    [
        ("index\timage\tquestion", True),
        ("index\timage_path\tquestion", True),
        ("index\tquestion", False),
        ("image\tquestion", False),
        ("index\timage", False),
    ],
)
def test_columns_that_are_needed(head: str, ours: bool):
    data = f"{head}\n".encode()
    assert vlmevalkit.claims(Path("a.TSV"), data) is ours
    assert not vlmevalkit.claims(Path("a.csv"), data)
