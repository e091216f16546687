"""`eval`, `chat` and the server give the same text to 100 questions."""

from pathlib import Path

import pytest

from fastvlm_mlx import load
from fastvlm_mlx.evaluation import read_benchmark
from fastvlm_mlx.model_folder import converted
from tests.support.eval_sets import read_lines, write_rows
from tests.support.paths import EXAMPLES
from tests.support.serving import running

# Beside the 76 of examples/questions.json.
MORE = (
    "Describe the image.",
    "What text is in the image?",
    "How many shapes are in the image?",
    "Is there a red circle?",
    "What is the largest shape?",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"id": each.id, "image": str(each.images[0]), "question": each.text}
        for each in read_benchmark(EXAMPLES).questions
    ]
    rows += [
        {"id": f"{name}: {text}", "image": str(EXAMPLES / name), "question": text}
        for name in ("beach.png", "crowd.png", "number.png", "shapes.png", "word.png")
        for text in MORE
    ]
    place = tmp_path_factory.mktemp("same") / "questions.jsonl"
    return write_rows(place, [{**row, "answer": "yes"} for row in rows])


@pytest.mark.parametrize(
    "count", [8, pytest.param(101, marks=pytest.mark.slow)], ids=str
)
def test_the_same_text(run, data, tmp_path, count):
    pytest.importorskip("starlette")
    pytest.importorskip("openai")
    options = ("--max-tokens", 48, "--limit", count, "--seed", 3)
    ours, served = tmp_path / "ours.jsonl", tmp_path / "served.jsonl"
    shown = run("eval", "demo", data, "-o", ours, *options)
    assert shown.code == 0, shown.err
    with running(Path(converted("demo"))) as server:
        asked = ("eval", "tiny", data, "--url", server.url, "-o", served)
        shown = run(*asked, *options)
        assert shown.code == 0, shown.err
    found = answers(ours)
    assert len(found) == count and answers(served) == found
    model = load("demo")
    for question in read_benchmark(data).questions:
        if question.id in found:
            said = model.conversation().stream(  # as `chat` does
                question.text, question.load_images(), max_tokens=48, temperature=0.0
            )
            text = "".join(chunk.text for chunk in said)
            assert (question.id, found[question.id]) == (question.id, text)


def answers(path: Path) -> dict[str, str]:
    return {line["id"]: line["answer"] for line in read_lines(path)}
