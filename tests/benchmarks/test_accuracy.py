"""The accuracy benchmark: its command, its questions and its tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.accuracy import draw, table
from benchmarks.accuracy.asking import LOOKS, Answer, Question, ask, draw_questions
from benchmarks.accuracy.table import Row
from benchmarks.accuracy.variants import NAMES, SHIPPED, Variant, make_variants
from fastvlm_mlx.evaluation.statistics import wilson
from fastvlm_mlx.model_folder import converted
from tests.support.eval_sets import read_lines
from tests.support.paths import ROOT
from training import drawing, questions

FONTS = (*drawing.TRAINING_FONTS, *drawing.HELD_OUT_FONTS)
with_fonts = pytest.mark.skipif(
    not all(
        any((Path(folder) / font).exists() for folder in drawing.FONT_FOLDERS)
        for font in FONTS
    ),
    reason="the fonts that training/README.md names are not installed",
)


@pytest.fixture(scope="module")
def every_question() -> list[Question]:
    return list(draw_questions(questions.KINDS, 2))


@pytest.mark.slow  # eight variants in processes of their own
@with_fonts
def test_the_command_asks_every_variant_of_the_demo_model() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.accuracy", "demo", "--variants"]
        + ["--images", "2", "--kinds", "colour", "--workers", "1"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["1/4", "2/4", "3/4", "4/4"]  # how far it is
    lines = done.stdout.splitlines()
    labels = ["as shipped", "8-bit", "4-bit", "0.5x: 128 px", "2x: 512 px"]
    labels += ["tiles 2x2", "Core ML float16", "bfloat16"]
    first_cells = [
        line[2:].split(" | ")[0].strip() for line in lines if line[:2] == "| "
    ]
    # One table per look; the first line of each is its head.
    assert first_cells == 2 * ["", *labels]
    assert "not asked" not in done.stdout
    rows = json.loads(lines[-1])["rows"]
    assert tuple(rows) == NAMES
    for name, row in rows.items():
        for look in LOOKS:
            assert row[look].keys() == {"colour"}
            assert row[look]["colour"] in (0, 0.5, 1), name
            assert 0 <= row["same"][look] <= 1
    assert rows["shipped"]["same"] == {look: 1 for look in LOOKS}
    # 2 images x 2 looks: rounding to float16 hardly ever changes an answer.
    assert sum(rows["coreml"]["same"].values()) >= 1


def test_each_kind_is_asked_as_often_in_both_looks(every_question) -> None:
    keys = [(q.look, q.kind) for q in every_question]
    expected = [(look, kind) for look in LOOKS for kind in questions.KINDS]
    assert keys == [key for key in expected for _ in range(2)]
    assert all(len(q.answer) == 2 for q in every_question if q.kind == "number")


def test_questions_are_the_same_every_time(every_question) -> None:
    assert every_question == list(draw_questions(questions.KINDS, 2))
    # A kind's questions do not depend on which other kinds are asked.
    words = [q for q in every_question if q.kind == "word"]
    assert words == list(draw_questions(["word"], 2))


def test_what_cannot_be_had_says_why(tmp_path: Path) -> None:
    folder = converted("demo")
    shipped, half = make_variants(["shipped", "0.5x"], folder, tmp_path, resolution=64)
    assert not shipped.fault
    assert (
        half.fault == "resolution 32: must be a multiple of 64 from 64 to 4096; try 64"
    )


def test_a_quantized_model_is_not_quantized_again(tmp_path: Path) -> None:
    (eight,) = make_variants(["8-bit"], converted("demo"), tmp_path)
    (again,) = make_variants(["4-bit"], Path(eight.folder), tmp_path)
    assert again.fault.startswith("--q-bits 4: the checkpoint is quantized already")


def test_the_table_counts_right_and_same_answers() -> None:
    variants = [Variant(n, n, "", 256) for n in ("shipped", "other", "broken")]
    rows = [Row(variant) for variant in variants]
    said = [("red", "red"), ("blue", "red"), ("pink", "pink"), ("red", "red")]
    for number, (first, second) in enumerate(said):
        look = list(LOOKS)[number // 2]
        question = Question("colour", look, number, "Which?", "red")
        given = Answer(first, 0.5), Answer(second, 0.25), Answer("", 0, "no encoder")
        for row, answer in zip(rows, given, strict=True):
            row.count(question, answer, same_as=given[0])
    text = "\n".join(table.markdown(rows, ["colour"], 2, "float32"))
    assert text.startswith(
        "**Other seeds**, per cent right of 2 images a kind\n"
        "|         | colour |  mean |  same |\n"
        "|---------|-------:|------:|------:|\n"
        "| shipped |   50.0 |  50.0 | 100.0 |\n"
        "| other   |  100.0 | 100.0 |  50.0 |\n"
        "| broken  |     -- |    -- |    -- |\n"
        "**Unseen look**"
    )
    assert "broken not asked: no encoder" in text
    assert "shipped 0.500, other 0.250." in text
    assert "exact test: other +25.0 (won 1, lost 0, p = 1)." in text
    found = table.document(rows, ["colour"])
    assert found["other"]["other seeds"] == {"colour": 1.0}
    assert found["other"]["same"] == {"other seeds": 0.5, "unseen look": 1.0}
    assert found["other"]["interval"] == list(wilson(3, 4))
    assert found["broken"] == {"not asked": "no encoder"}


@with_fonts
def test_eval_gives_the_same_answers(tmp_path: Path, run) -> None:
    """The drawn set, scored by `eval`, has what `model.ask` says, and as many right."""
    kinds = ["colour", "word"]
    options = ["--images", "2", "--kinds", *kinds]
    draw.main([str(tmp_path / "drawn"), *options])
    out = tmp_path / "a.jsonl"
    command = ("eval", "demo", tmp_path / "drawn", "-o", out, "--max-tokens", 96)
    shown = run(*command, "--json")
    assert shown.code == 0, shown.err
    asked = list(draw_questions(kinds, 2))
    (shipped,) = make_variants([SHIPPED], converted("demo"), tmp_path)
    row = Row(shipped)
    lines = {line["id"]: line for line in read_lines(out)}
    for question in asked:
        (answer,) = ask([shipped], question)
        row.count(question, answer, same_as=answer)
        line = lines[question.as_evaluated().id]
        assert line["answer"].strip() == answer.text
        assert line["score"] == row.marks[-1]
        assert line["category"] == f"{question.look}/{question.kind}"
    found = json.loads(shown.out)["categories"]
    categories = {each["category"]: each["score"] for each in found}
    assert categories == {
        f"{look}/{kind}": share
        for look in LOOKS
        for kind, share in row.shares(look, kinds).items()
    }


@with_fonts
def test_a_folder_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="benchmarks.accuracy.draw: .*exists already"):
        draw.main([str(tmp_path), "--images", "1", "--kinds", "colour"])
    with pytest.raises(SystemExit, match="--images 0: at least 1"):
        draw.main([str(tmp_path / "new"), "--images", "0"])
