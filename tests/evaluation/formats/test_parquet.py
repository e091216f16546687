"""Benchmarks that are parquet (`formats/mmmu.py`, `ocrbench.py`, data/parquet_rows)."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.data.parquet_rows import ParquetImage
from fastvlm_mlx.errors import DataError, ImageError
from fastvlm_mlx.evaluation.formats.read import read_benchmark
from fastvlm_mlx.evaluation.metrics import METRICS
from fastvlm_mlx.evaluation.question import OPTION_LETTER, SHORT_ANSWER, prompt_of
from fastvlm_mlx.files.installation import pip_install
from tests.support import benchmark_tables as sets


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_benchmark(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_mmmu(tmp_path: Path):
    found = read_benchmark(sets.mmmu(tmp_path))
    assert (found.name, found.label) == ("mmmu", "MMMU validation")
    assert (found.metric, found.suffix) == ("mmmu", OPTION_LETTER)
    assert [question.id for question in found.questions] == [
        "validation_Accounting_1",
        "validation_Accounting_2",
        "validation_Art_Theory_1",
        "validation_Art_Theory_2",
    ]
    first, second, third, _ = found.questions
    assert (first.category, third.category) == ("Accounting", "Art Theory")
    # Those that question and options mention, in their order; the second is not.
    assert first.load_images() == (sets.image_bytes(1), sets.image_bytes(3))
    assert first.choices == ("$6", "<image 3>", "Baxter's", "$8")
    assert first.text.startswith("<image 1> Baxter Company has ... Which is right?\nA.")
    assert prompt_of(first, found.suffix).endswith(f"\nD. $8\n{OPTION_LETTER}")
    # An open question of a later row group: several answers, and another suffix.
    assert second.answers == ("6.23", "$6.23") and not second.choices
    assert second.load_images() == (sets.image_bytes(1),)
    assert prompt_of(second, found.suffix) == f"How much is it?\n{SHORT_ANSWER}"
    assert METRICS["mmmu"].mark(second, "It is 6.23.") == 1
    other = found.with_suffix("Be brief.")
    assert prompt_of(other.questions[1], other.suffix) == "How much is it?\nBe brief."


def test_mmmu_images_stay_in_the_file(tmp_path: Path):
    (first, *_) = read_benchmark(sets.mmmu(tmp_path)).questions
    image = first.images[0]
    assert isinstance(image, ParquetImage)
    assert (image.group, image.row, image.column) == (0, 0, "image_1")
    assert hash(image) == hash(first.images[0])


def test_mmmu_of_one_subject_and_of_the_test_set(tmp_path: Path):
    sets.mmmu(tmp_path)
    assert len(read_benchmark(tmp_path / "Accounting").questions) == 2
    path = tmp_path / "Accounting" / "test-00000-of-00001.parquet"
    assert "(1 question is left out: no answer is published for it)" in refusal(path)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"image_1": None}, "question 2: has no image"),
        ({"question": "See <image 7>"}, "question 2: has no image"),
        ({"question": ""}, "question 2: the question is empty"),
        (
            {"question_type": "multiple-choice", "options": "['a', 'b']"},
            "question 2: the answer 6.23 is none of the letters A to B of its choices",
        ),
    ],
)
def test_bad_questions(tmp_path: Path, more: dict[str, Any], said: str):
    message = refusal(sets.mmmu(tmp_path, **more))
    assert said in message and message.endswith("download the file again")


def test_ocrbench(tmp_path: Path):
    found = read_benchmark(sets.ocrbench(tmp_path))
    assert (found.name, found.metric, found.suffix) == ("ocrbench", "contained", "")
    first, second = found.questions
    assert (first.id, second.id) == ("1", "2")
    assert first.answers == ("CENTRE", "CENTER")
    assert first.load_images() == (sets.image_bytes(1),)
    # Formulas keep their case and lose their blanks.
    assert METRICS["contained"].mark(second, "x^{2}") == 1
    assert METRICS["contained"].mark(second, "X^{2}") == 0
    assert METRICS["contained"].mark(first, "It says: center") == 1


def test_broken_files(tmp_path: Path):
    path = sets.ocrbench(tmp_path) / "data" / "test-00000-of-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "not a whole parquet file (" in refusal(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert refusal(path).endswith("not a parquet file; download it again")
    sets.parquet(path, [{"a": 1}])
    assert "no benchmark is recognized in it" in refusal(path)
    for name, column in (("mmmu", "id"), ("ocrbench", "dataset")):
        said = refusal(path, format=name)
        assert said.endswith(f"no column {column} (a); give another file")


def test_a_file_that_changes_while_it_is_asked(tmp_path: Path):
    (first, *_) = read_benchmark(sets.ocrbench(tmp_path)).questions
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ImageError, match="not a whole parquet file"):
        first.load_images()


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sets.ocrbench(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    message = refusal(tmp_path)
    assert message.endswith(f"need pyarrow; {pip_install('pyarrow')}")
