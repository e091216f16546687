"""Questions asked in batches: the answers of `ask`, and questions that fail."""

from dataclasses import replace
from pathlib import Path

import pytest

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.evaluation import ask_questions, read_benchmark
from fastvlm_mlx.evaluation.ask import Answer
from fastvlm_mlx.evaluation.question import Question
from fastvlm_mlx.generation.batch_decoder import BatchDecoder
from tests.support.eval_sets import make_set
from tests.support.mock_model import MockModel

SUFFIX = "Answer the question using a single word or phrase."


def asked(model, questions, **options) -> dict[str, Answer]:
    found = list(ask_questions(model, questions, **options))
    assert len(found) == len(questions)
    return {each.question.id: each for each in found}


@pytest.fixture
def questions(tmp_path: Path) -> tuple[Question, ...]:
    return read_benchmark(make_set(tmp_path / "set", 11)).questions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resolution": 128},
        {"tiles": (1, 2), "fit": "crop", "system": "Be short."},
    ],
    ids=str,
)
def test_answers_are_those_of_ask(tiny_model, questions, options):
    found = asked(
        tiny_model, questions, suffix=SUFFIX, max_tokens=6, batch=4, **options
    )
    for question in questions:
        expected = tiny_model.ask(
            f"{question.text}\n{SUFFIX}", question.images[0], max_tokens=6, **options
        )
        assert found[question.id].text == expected
        assert found[question.id].finish_reason in ("stop", "length")
        assert found[question.id].error is None


def test_two_images_and_bytes(tiny_model, questions, tmp_path: Path):
    data = (tmp_path / "set" / "1.png").read_bytes()
    two = replace(questions[0], id="two", images=(questions[0].images[0], data))
    found = asked(tiny_model, [two, questions[1]], max_tokens=4)
    expected = tiny_model.ask(two.text, list(two.images), max_tokens=4)
    assert found["two"].text == expected


def test_prompts_of_one_length_are_prefilled_together(
    tiny_model, questions, monkeypatch
):
    shapes, real = [], BatchDecoder.prefill

    def prefill(self, rows, embeddings):
        shapes.append(embeddings.shape[:2])
        return real(self, rows, embeddings)

    monkeypatch.setattr(BatchDecoder, "prefill", prefill)
    equal = [replace(each, text="What is this?") for each in questions[:8]]
    longer = [replace(each, text="What is it, in one word?") for each in questions[8:]]
    mixed = [*equal[:4], *longer, *equal[4:]]
    # All answers are as long as they may be, so all places are free at once.
    asked(tiny_model, mixed, max_tokens=1, batch=4)
    short, long = sorted({length for _, length in shapes})
    assert sorted(shapes) == [(3, long), (4, short), (4, short)]


def test_what_cannot_be_opened_is_one_question(tiny_model, questions, tmp_path: Path):
    (tmp_path / "set" / "2.png").write_bytes(b"not an image")
    (tmp_path / "set" / "3.png").unlink()
    found = asked(tiny_model, questions, max_tokens=2, batch=3)
    failed = {id for id, each in found.items() if each.error is not None}
    assert failed == {q.id for q in questions if int(q.id[1:]) % 4 in (2, 3)}
    bad = found["q2"]
    assert (bad.text, bad.finish_reason) == ("", None)
    assert bad.error is not None
    assert bad.error.startswith(f"{questions[2].origin}: ")
    assert "2.png: not an image" in bad.error and "\n" not in bad.error


def test_a_disk_that_fails_is_one_question(tiny_model, questions, monkeypatch):
    from fastvlm_mlx.evaluation import ask

    real = ask.attach

    def attach(model, source, options):
        if str(source).endswith("1.png"):
            raise OSError(5, "Input/output error")
        return real(model, source, options)

    monkeypatch.setattr(ask, "attach", attach)
    found = asked(tiny_model, questions[:4], max_tokens=2)
    error = f"{questions[1].origin}: an image cannot be read (Input/output error)"
    assert [found[f"q{n}"].error for n in range(4)] == [None, error, None, None]


def test_what_does_not_fit_is_one_question(tiny_model, questions):
    long = replace(questions[1], text="word " * 40_000)
    found = asked(tiny_model, [questions[0], long, questions[2]], max_tokens=2)
    assert found["q0"].error is None and found["q2"].error is None
    assert "tokens of context" in (found["q1"].error or "")


def test_an_encoder_alone_cannot_answer(questions):
    model = MockModel()  # of its own: MLX does not put back what is replaced
    model.language_model = None
    with pytest.raises(CheckpointError, match="an encoder alone and cannot answer"):
        list(ask_questions(model, questions))


def test_options_are_checked(tiny_model, questions):
    with pytest.raises(OptionError, match="resolution 100"):
        list(ask_questions(tiny_model, questions, resolution=100))


def test_an_early_end_opens_no_more_images(tiny_model, questions, monkeypatch):
    from fastvlm_mlx.evaluation import ask

    opened, real = [], ask.attach
    monkeypatch.setattr(
        ask, "attach", lambda *given: opened.append(given) or real(*given)
    )
    given = ask_questions(tiny_model, questions, max_tokens=1, batch=2)
    next(given)
    given.close()
    assert len(opened) <= 4
