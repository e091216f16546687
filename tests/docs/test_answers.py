"""README.md prints the answers of the demo model; its images are screenshots."""

import re

import pytest
from PIL import Image

from fastvlm_mlx import load
from fastvlm_mlx.fastvlm import FastVLM
from tests.support import terminal_shot
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text("utf-8")
ROW = re.compile(r"^\| !\[.*?\]\((?P<image>\S+)\) \| (?P<cell>.*) \|$", re.MULTILINE)
ANSWER = re.compile(r"(?:^|<br>)(?P<question>[^*]+\?) \*\*(?P<answer>[^*]+)\*\*")
ASKED = [
    (row["image"], found["question"], found["answer"])
    for row in ROW.finditer(README)
    for found in ANSWER.finditer(row["cell"])
]


@pytest.fixture(scope="module")
def demo() -> FastVLM:
    return load("demo")


def test_the_table_is_found():
    assert len(ASKED) == README.count("**") // 2 > 5


@pytest.mark.parametrize(("image", "question", "answer"), ASKED)
def test_answer_is_the_models(demo: FastVLM, image: str, question: str, answer: str):
    assert demo.ask(question, ROOT / image) == answer


def test_printed_description_is_the_models(demo: FastVLM):
    answer = demo.ask("Describe the image.", ROOT / "examples" / "number.png")
    assert f"```text\n{answer}\n```" in README


def test_the_terminal_image_shows_a_session_that_works():
    text = terminal_shot.session().plain
    assert text.startswith(f"$ {terminal_shot.ONCE}\nA red sign with the number 45")
    assert f"> {terminal_shot.QUESTIONS[0]}\nGRASS\ntime to first token" in text
    assert f"> {terminal_shot.QUESTIONS[1]}\norange\ntime to first token" in text


@pytest.mark.parametrize("name", ["terminal", "page-ask", "page-live", "page-eval"])
def test_image_is_a_screenshot(name: str):
    with Image.open(ROOT / "docs" / "images" / f"{name}.png") as image:
        assert image.width in range(1170, 1190)
