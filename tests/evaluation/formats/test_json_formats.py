"""Benchmarks that are JSON beside folders of images (`fastvlm_mlx/evaluation/formats`).

Each is read from a small set in the official shape, and each oddity has a test.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.errors import DataError
from fastvlm_mlx.evaluation.formats.read import read_benchmark
from fastvlm_mlx.evaluation.question import OPTION_LETTER, SHORT_ANSWER, prompt_of
from tests.support import benchmark_sets as sets


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_benchmark(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_textvqa(tmp_path: Path):
    found = read_benchmark(sets.textvqa(tmp_path))
    assert (found.name, found.label) == ("textvqa", "TextVQA val")
    assert (found.metric, found.suffix, found.notes) == ("vqa", SHORT_ANSWER, ())
    first, second = found.questions
    assert (first.id, second.id) == ("34602", "34603")
    assert first.images == (tmp_path / "train_images" / "003a8ae2ef43b901.jpg",)
    assert len(first.answers) == 10 and first.answers[1] == "dakota"
    assert prompt_of(first, found.suffix) == (
        "what is the brand of this camera?\n"
        "Answer the question using a single word or phrase."
    )


def test_textvqa_unanswerable(tmp_path: Path):
    # What people could not answer is asked: ten of them say so, and that is right.
    none = ["unanswerable"] * 10
    assert read_benchmark(sets.textvqa(tmp_path, answers=none)).questions[
        1
    ].answers == (*none,)


def test_textvqa_without_answers(tmp_path: Path):
    found = read_benchmark(sets.textvqa(tmp_path, answers=None))
    assert len(found.questions) == 1
    assert found.notes == ("1 question is left out: no answer is published for it",)


def test_docvqa(tmp_path: Path):
    found = read_benchmark(sets.docvqa(tmp_path))
    assert (found.name, found.label, found.metric) == ("docvqa", "DocVQA val", "anls")
    first, second = found.questions
    # The page lies in spdocvqa_images, which the file calls documents.
    assert first.images == (tmp_path / "spdocvqa_images" / "pybv0228_81.png",)
    assert second.answers == ("university of california", "University of California")
    assert (first.category, second.category) == ("figure/diagram", "several types")
    assert found.suffix == SHORT_ANSWER


def test_docvqa_in_the_older_nesting(tmp_path: Path):
    sets.docvqa(tmp_path / "new")
    place = tmp_path / "old" / "val"
    old = place / "val_v1.0.json"
    place.mkdir(parents=True)
    (tmp_path / "new" / "spdocvqa_images").rename(place / "documents")
    (tmp_path / "new" / "spdocvqa_qas" / "val_v1.0_withQT.json").rename(old)
    (question, _) = read_benchmark(tmp_path / "old").questions
    assert question.images == (place / "documents" / "pybv0228_81.png",)


def test_docvqa_test_has_no_answers(tmp_path: Path):
    path = sets.docvqa(tmp_path) / "spdocvqa_qas" / "test_v1.0.json"
    assert "no question to ask (2 questions are left out: no answer" in refusal(path)


def test_docvqa_of_one_split(tmp_path: Path):
    path = sets.docvqa(tmp_path) / "spdocvqa_qas" / "train_v1.0_withQT.json"
    assert read_benchmark(path).label == "DocVQA train"


def test_infovqa(tmp_path: Path):
    found = read_benchmark(sets.infovqa(tmp_path))
    assert (found.name, found.label, found.metric) == ("infovqa", "InfoVQA val", "anls")
    (question,) = found.questions
    assert question.images == (tmp_path / "infographicsvqa_images" / "20471.jpeg",)


def test_chartqa(tmp_path: Path):
    found = read_benchmark(sets.chartqa(tmp_path))
    assert (found.label, found.metric) == ("ChartQA test", "relaxed")
    ids = {question.id: question for question in found.questions}
    assert set(ids) == {"human-1", "human-2", "augmented-1"}
    assert ids["augmented-1"].answers == ("23.2%",)
    assert ids["augmented-1"].category == "augmented"
    place = tmp_path / "ChartQA Dataset" / "test"
    assert ids["human-1"].images == (place / "png" / "41699051005347.png",)
    human = read_benchmark(place / "test_human.json")
    assert {question.category for question in human.questions} == {"human"}


def test_gqa(tmp_path: Path):
    found = read_benchmark(sets.gqa(tmp_path))
    assert (found.label, found.metric) == ("GQA testdev balanced", "gqa")
    first, second = found.questions
    assert (first.id, first.category) == ("201307251", "verify")
    assert (first.answers, second.answers) == (("no",), ("yes",))
    assert first.images == (tmp_path / "images" / "n161313.jpg",)


def test_gqa_without_answers(tmp_path: Path):
    path = sets.gqa(tmp_path) / "questions1.2" / "val_balanced_questions.json"
    document = json.loads(path.read_text())
    del document["201307251"]["answer"]  # the first of two
    path.write_text(json.dumps(document))
    found = read_benchmark(path)
    assert (found.label, len(found.questions)) == ("GQA val balanced", 1)
    assert found.notes == ("1 question is left out: no answer is published for it",)


def test_pope(tmp_path: Path):
    found = read_benchmark(sets.pope(tmp_path))
    assert (found.name, found.metric, found.suffix) == ("pope", "yes_no", SHORT_ANSWER)
    assert len(found.questions) == 6
    assert {q.category for q in found.questions} == {"random", "popular", "adversarial"}
    assert found.questions[0].id == "adversarial-1"
    assert found.questions[1].answers == ("no",)
    one = read_benchmark(tmp_path / "coco" / "coco_pope_random.json")
    assert [question.id for question in one.questions] == ["random-1", "random-2"]


def test_scienceqa(tmp_path: Path):
    found = read_benchmark(sets.scienceqa(tmp_path))
    assert (found.name, found.metric) == ("scienceqa", "scienceqa")
    assert found.suffix == OPTION_LETTER
    assert found.notes == ("1 question is left out: it has no image",)
    first, second = found.questions
    assert first.text == (
        "Which of these states is farthest north?\n"
        "A. West Virginia\nB. Louisiana\nC. Arizona\nD. Oklahoma"
    )
    assert second.text.startswith("Context: Figure: sturgeon.\nWhich of")
    assert (first.answers, second.answers) == (("A",), ("B",))
    assert second.category == "natural science"
    assert second.images == (tmp_path / "images" / "test" / "11" / "image.png",)
    assert read_benchmark(tmp_path / "problems.json").questions == found.questions


def test_scienceqa_of_one_file(tmp_path: Path):
    sets.scienceqa(tmp_path)
    (tmp_path / "pid_splits.json").unlink()
    assert "no pid_splits.json; ScienceQA needs problems.json and" in refusal(tmp_path)


def test_seedbench(tmp_path: Path):
    found = read_benchmark(sets.seedbench(tmp_path))
    assert (found.name, found.metric) == ("seedbench", "letter")
    assert found.notes == (
        "1 question is left out: it is of the type video, not of images",
    )
    first, second = found.questions
    assert (first.category, second.category) == (
        "Instances Counting",
        "Spatial Relation",
    )
    assert first.text.endswith("?\nA. One\nB. Two\nC. Three\nD. Four")
    assert first.images == (tmp_path / "SEED-Bench-image" / "1454426_2591111986",)


def test_seedbench_goes_on_after_a_video(tmp_path: Path):
    path = sets.seedbench(tmp_path) / "SEED-Bench.json"
    document = json.loads(path.read_text())
    document["questions"].reverse()
    path.write_text(json.dumps(document))
    assert [q.id for q in read_benchmark(path).questions] == ["101670", "101669"]


def test_seedbench_2_has_several_images(tmp_path: Path):
    names = ["task17/1.png", "task17/2.png"]
    sets.seedbench(tmp_path, data_type="Multiple Images", data_id=names)
    for name in names:
        sets.put_image(tmp_path / "SEED-Bench-2-image" / name)
    found = read_benchmark(tmp_path)
    assert found.name == "seedbench2"  # no published figure
    assert found.questions[1].images == tuple(
        tmp_path / "SEED-Bench-2-image" / name for name in names
    )
