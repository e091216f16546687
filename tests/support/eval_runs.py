"""What the tests of `eval` share: the program, called with a tiny model."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fastvlm_mlx import fastvlm
from fastvlm_mlx.app.evaluation import run as eval_run
from fastvlm_mlx.evaluation.ask import Answer, failed
from fastvlm_mlx.evaluation.question import Question
from tests.support.eval_sets import make_set


@pytest.fixture
def evaluate(run, monkeypatch, tiny_model, tiny):
    """Calls `eval` in this process, with a model that is loaded once."""
    monkeypatch.setattr(fastvlm, "load", lambda name, **options: tiny_model)
    # The machine's load is in each table, and changes.
    monkeypatch.setattr("os.getloadavg", lambda: (0.5, 0.5, 0.5))

    def call(*arguments: object, code: int = 0) -> tuple[str, str]:
        shown = run("eval", tiny, *arguments)
        assert shown.code == code, shown.err
        return shown.out, shown.err

    return call


class Asked(list[str]):
    """The ids of the questions that were asked, and what is answered to them.

    `right` are the ids that are answered as expected by the setup at each resolution;
    `broken` are those that fail; to others it says `wrong`,
    with the resolution if `is_told`.
    """

    def __init__(self):
        super().__init__()
        self.right: dict[int | None, Sequence[str]] = {}
        self.broken: set[str] = set()
        self.wrong = "no"
        self.is_told = False

    def ask(self, model: object, questions: Sequence[Question], **options: object):
        """In the place of `ask_questions`."""
        resolution = options["resolution"]
        for question in questions:
            self.append(question.id)
            assert resolution is None or isinstance(resolution, int)
            right = self.right.get(resolution, ())
            if question.id in self.broken:
                yield failed(question, "lost.png: no such file")
            else:
                wrong = f"{self.wrong} {resolution}" if self.is_told else self.wrong
                text = question.answers[0] if question.id in right else wrong
                yield Answer(question, text, "stop")


@pytest.fixture
def asked(monkeypatch) -> Asked:
    """No model answers, but a script; see `Asked`."""
    found = Asked()
    monkeypatch.setattr(eval_run, "ask_questions", found.ask)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve questions about four images, in two categories; "yes" is right."""
    return make_set(tmp_path / "set")
