"""`chat --choices`: the numbers of `choose`, and what cannot go with it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx import load
from fastvlm_mlx.adapters.files import write_adapter
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.fastvlm import FastVLM
from tests.support.paths import EXAMPLES
from tests.support.small_adapters import make_adapter

BEACH = EXAMPLES / "beach.png"
CROSS = "Which color is the cross?"
ASK = ("chat", "-m", "demo", BEACH, "-p", CROSS)
COLORS = ["blue", "red", "light green"]
NOTE = (
    "note: the model would rather answer something else than any of these;"
    " name them in the question, or write them as it would\n"
)


@pytest.fixture(scope="module")
def demo() -> FastVLM:
    return load("demo")


@pytest.fixture(autouse=True)
def loaded_once(demo, monkeypatch):
    def load_or_take(name: str, **options: Any) -> FastVLM:
        return demo if name == "demo" else load(name, **options)

    monkeypatch.setattr("fastvlm_mlx.fastvlm.load", load_or_take)


def lines(text: str) -> list[tuple[str, float]]:
    rows = [line.split("\t") for line in text.splitlines()]
    return [(choice, float(probability)) for choice, probability in rows]


def test_lines_for_scripts(run, demo):
    found = demo.choose(CROSS, BEACH, COLORS)
    shown = run(*ASK, "--choices", "blue, red,light green")
    assert (shown.code, shown.err) == (0, "")
    said = lines(shown.out)
    wanted = dict(zip(found.choices, found.probabilities, strict=True))
    assert dict(said) == pytest.approx(wanted, abs=1e-5)
    assert said[0][0] == found.answer == "red"
    assert [p for _, p in said] == sorted((p for _, p in said), reverse=True)


def test_a_table_for_people(run, demo, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = run(*ASK, "--choices", "blue,red,light green")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out == (
        "red          100.0 %\nblue           0.0 %\nlight green    0.0 %\n"
    )


def test_json_keeps_the_order(run, demo):
    found = demo.choose(CROSS, BEACH, COLORS)
    shown = run(*ASK, "--choices", "blue,red,light green", "--json")
    assert (shown.code, shown.err, shown.out.count("\n")) == (0, "", 1)
    said = json.loads(shown.out)
    assert (said["model"], said["images"]) == ("demo", [str(BEACH)])
    assert (said["prompt"], said["answer"]) == (CROSS, "red")
    assert [each["choice"] for each in said["choices"]] == COLORS
    for name, values in (
        ("probability", found.probabilities),
        ("logprob", found.logprobs),
        ("tokens", found.token_counts),
    ):
        read = [each[name] for each in said["choices"]]
        assert read == pytest.approx(list(values), abs=1e-4)
    assert sum(each["probability"] for each in said["choices"]) == pytest.approx(1)


def test_a_score_of_yes(run):
    question = ("chat", "-m", "demo", BEACH, "--choices", "Yes,No", "--json", "-p")
    scores = [
        json.loads(run(*question, f"Does the sign say {word}?").out)["choices"][0]
        for word in ("BEACH", "MUSIC")
    ]
    assert scores[0]["probability"] > 0.5 > scores[1]["probability"]


def test_the_question_may_be_piped(run):
    shown = run("chat", "-m", "demo", BEACH, "--choices", "blue,red", stdin=CROSS)
    assert (shown.code, shown.out) == (0, run(*ASK, "--choices", "blue,red").out)


def test_answers_that_the_model_would_not_give(run):
    shown = run(*ASK, "--choices", "yes,no")
    assert shown.code == 0 and len(lines(shown.out)) == 2
    assert shown.err == NOTE


def test_a_comma_and_a_quotation_mark_in_a_choice(run):
    shown = run(*ASK, "--choices", '"red, or so",5" blue', "--json")
    said = json.loads(shown.out)["choices"]
    assert [each["choice"] for each in said] == ["red, or so", '5" blue']
    assert shown.code == 0


def test_options_of_the_image_arrive(run, demo):
    options = {"resolution": 256, "system": "Be brief."}
    found = demo.choose(CROSS, BEACH, ["blue", "red"], **options)
    shown = run(
        *(*ASK, "--choices", "blue,red", "--json"),
        *("--resolution", 256, "--system", "Be brief."),
    )
    read = [each["logprob"] for each in json.loads(shown.out)["choices"]]
    assert read == pytest.approx(list(found.logprobs), abs=1e-3)
    plain = json.loads(run(*ASK, "--choices", "blue,red", "--json").out)["choices"]
    assert read != pytest.approx([each["logprob"] for each in plain], abs=1e-2)


def test_with_an_adapter(run, demo, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("fastvlm_mlx.fastvlm.load", load)
    folder = tmp_path / "flags"
    write_adapter(folder, make_adapter(demo, AdapterSpec(rank=2), 0.05))
    tuned = load("demo", adapter=folder)
    shown = run(*ASK, "--choices", "blue,red", "--json", "--adapter", folder)
    said = json.loads(shown.out)
    found = tuned.choose(CROSS, BEACH, ["blue", "red"])
    assert said["model"] == "demo:flags"
    read = [each["logprob"] for each in said["choices"]]
    assert read == pytest.approx(list(found.logprobs), abs=1e-3)


NO_EFFECT = (
    "{} has no effect beside --choices, which scores every choice and generates"
    " nothing; leave one of them out"
)
CSV = (
    "--choices {!r}: give them on one line, separated by commas, such as --choices"
    " 'yes,no'; quote one that has a comma: '\"a, b\",c'"
)
REFUSED = [
    (("--choices", ""), "--choices: none; give two or more, such as 'yes' and 'no'"),
    (
        ("--choices", "yes"),
        "--choices: 'yes' alone; give two or more, such as 'yes' and 'no'",
    ),
    (
        ("--choices", "yes,,no"),
        "--choices: number 2 is empty; remove it, or name it, such as 'none'",
    ),
    (
        ("--choices", "yes,no,"),
        "--choices: number 3 is empty; remove it, or name it, such as 'none'",
    ),
    (("--choices", "yes,no, yes"), "--choices: 'yes' is there twice; remove one"),
    (
        ("--choices", ",".join(map(str, range(1001)))),
        "--choices: 1001; at most 1000 can be scored at once",
    ),
    (("--choices", '"a,b'), CSV.format('"a,b')),
    (("--choices", '"a"b,c'), CSV.format('"a"b,c')),
    (("--choices", "a\nb,c"), CSV.format("a\nb,c").replace("\n", " ")),
    (
        ("--choices", "a,b", "--schema", "schema.json"),
        "--choices and --schema both say what the answer is; give one of them",
    ),
    *(
        (("--choices", "a,b", option, value), NO_EFFECT.format(option))
        for option, value in (
            ("--temperature", 0.5),
            ("--top-p", 0.5),
            ("--top-k", 5),
            ("--min-p", 0.1),
            ("--repetition-penalty", 1.2),
            ("--seed", 1),
            ("--max-tokens", 16),
            ("--stop", "x"),
        )
    ),
    (("--choices", "a,b", "--stats"), NO_EFFECT.format("--stats")),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_is_one_line(run, options, message):
    # Said before the model, which does not exist, is looked for.
    shown = run("chat", "-m", "nowhere/", BEACH, "-p", CROSS, *options)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == f"error: {message}\n"


def test_without_a_question(run, monkeypatch):
    monkeypatch.setattr("fastvlm_mlx.app.chat.run.read_question", lambda request: None)
    shown = run("chat", "-m", "nowhere/", BEACH, "--choices", "a,b")
    assert shown == (
        2,
        "",
        "error: --choices needs the one question to score; use -p PROMPT\n",
    )


def test_a_choice_that_does_not_fit(run):
    shown = run(*ASK, "--choices", f"red,{'blue ' * 9000}")
    assert (shown.code, shown.out, shown.err.count("\n")) == (1, "", 1)
    assert shown.err.startswith("error: the choice 'blue blue ")
    assert "tokens of context" in shown.err
