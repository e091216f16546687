"""`eval`: the newcomer's command, tables, samples, files that go on, failures."""

import fcntl
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from fastvlm_mlx.app.evaluation.run import sample
from fastvlm_mlx.evaluation.formats.read import read_benchmark
from tests.support.eval_sets import make_set, read_lines
from tests.support.paths import EXAMPLES, ROOT

pytest_plugins = ["tests.support.eval_runs"]
ALL = [f"q{number}" for number in range(12)]


def test_the_newcomer(run):
    """The bundled questions are scored at once, and nothing else is needed."""
    shown = run("eval", "demo", f"{EXAMPLES}/", "--max-tokens", 24, "--limit", 8)
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert lines[0] == "questions.json: 8 questions, exact match in per cent"
    assert lines[1:4] == ["model: demo", "prompt suffix: none", ""]
    assert lines[4].split() == ["n", "score", "95%", "interval"]
    total = next(line.split() for line in lines if line.startswith("all "))
    assert total[1] == "8" and float(total[2]) >= 75
    assert re.fullmatch(r"8 questions answered in .* \(.*\)\n", shown.err)


def test_a_table(evaluate, asked, data):
    asked.right = {None: [*ALL[:6], ALL[7]]}
    out, _ = evaluate(data)
    assert out.splitlines()[:8] == [
        "questions.jsonl: 12 questions, exact match in per cent",
        out.splitlines()[1],
        "prompt suffix: none",
        "",
        "       n  score  95% interval",
        "odd    6   50.0  18.8 to 81.2",
        "even   6   66.7  30.0 to 90.3",
        "all   12   58.3  32.0 to 80.7",
    ]
    assert re.search(r"\n\n.*; mlx .*\n$", out)  # the machine
    assert "\x1b" not in out


def test_what_is_printed_of_options(evaluate, asked, data, monkeypatch):
    from fastvlm_mlx.app.evaluation import table

    monkeypatch.setattr(table, "published_figure", lambda model, name: 64.5)
    asked.right = {128: ALL}
    options = ["--resolution", 128, "--suffix", "Be short.", "--metric", "vqa"]
    lines = evaluate(data, *options)[0].splitlines()
    assert lines[0].endswith("VQA accuracy in per cent")
    assert lines[1].endswith(", resolution=128")
    assert lines[2] == "prompt suffix: Be short."
    assert lines[4].split()[-1] == "paper"
    assert next(line for line in lines if line[:3] == "all").split()[-1] == "64.5"


def test_json(evaluate, asked, data):
    asked.right = {None: ALL[:6]}
    asked.broken = {"q11"}
    out, _ = evaluate(data, "--json", "--limit", 12, code=1)
    found = json.loads(out)
    assert (found["benchmark"], found["metric"], found["suffix"]) == (
        "own",
        "exact",
        "",
    )
    assert (found["questions"], found["score"], found["failed"]) == (12, 0.5, 1)
    assert found["interval"][0] < 0.5 < found["interval"][1]
    assert [row["category"] for row in found["categories"]] == ["odd", "even"]
    assert found["settings"] == "max-tokens=128"
    assert found["machine"]["versions"]["mlx"]


def test_figures_of_the_whole_set(evaluate, asked, data):
    asked.right = {None: ALL[:6]}
    out, _ = evaluate(data, "--metric", "yes_no")
    (line,) = [line for line in out.splitlines() if "precision" in line]
    assert "F1 66.7" in line and "precision 100.0" in line and "recall 50.0" in line


def test_answers_that_were_cut_are_counted(evaluate, data):
    out, _ = evaluate(data, "--max-tokens", 1, "--limit", 2)
    assert "2 answers ended at 1 tokens; see --max-tokens" in out


def test_samples(data):
    questions = read_benchmark(data).questions
    ids = [[q.id for q in sample(questions, n, 5)] for n in (3, 7, 12, 99)]
    assert ids[2] == ids[3] == ALL == [q.id for q in sample(questions, None, 5)]
    assert [len(each) for each in ids] == [3, 7, 12, 12]
    # In the order of the data, and a larger sample goes on with a smaller one.
    assert set(ids[0]) < set(ids[1]) and ids[1] == [i for i in ALL if i in ids[1]]
    assert ids[1] == [q.id for q in sample(questions, 7, 5)]
    assert ids[1] != [q.id for q in sample(questions, 7, 6)]


def test_lines(evaluate, asked, data, tmp_path, tiny):
    asked.right, asked.broken = {None: ["q0"]}, {"q1"}
    evaluate(data, "-o", tmp_path / "a.jsonl", "--suffix", "Be short.", code=1)
    first, second, third, *_ = read_lines(tmp_path / "a.jsonl")
    labels = {
        "model": tiny,
        "settings": "max-tokens=128",
        "benchmark": "questions.jsonl",
        "metric": "exact",
        "suffix": "Be short.",
    }
    assert first == {
        "id": "q0",
        "category": "odd",
        "prompt": "What is this? 0\nBe short.",
        "answer": "yes",
        "expected": ["yes"],
        "score": 1.0,
        "finish_reason": "stop",
        **labels,
    }
    assert list(first) == list(first | labels)
    assert second["error"] == f"{data}:2: lost.png: no such file"
    assert second["score"] == 0 and "answer" not in second
    assert (third["answer"], third["score"]) == ("no", 0)


def test_going_on(evaluate, asked, data, tmp_path):
    out = tmp_path / "a.jsonl"
    asked.right, asked.broken = {None: ALL}, {"q5"}
    _, err = evaluate(data, "-o", out, "--limit", 5, "--seed", 1, code=1)
    some = list(asked)
    asked.clear()
    table, err = evaluate(data, "-o", out, code=1)
    assert sorted(asked + some) == sorted([*ALL, "q5"])
    assert "4 of 12 questions are answered already" in err
    assert err.splitlines()[-2:] == [
        "1 failed, and count as wrong:",
        f"error: {data}:6: lost.png: no such file",
    ]
    assert "all   12   91.7" in table
    # What failed is asked again, and nothing else.
    asked.clear()
    asked.broken = set()
    table, err = evaluate(data, "-o", out)
    assert asked == ["q5"]
    assert "all   12  100.0" in table
    assert sorted(line["id"] for line in read_lines(out)) == sorted(ALL)
    # Nothing is left to ask: no model is loaded, and the table is the same.
    asked.clear()
    assert evaluate(data, "-o", out)[0] == table and asked == []
    part, _ = evaluate(data, "-o", out, "--limit", 5, "--seed", 1)
    assert "5 questions" in part and asked == []
    evaluate(data, "-o", out, "--overwrite")
    assert asked == ALL


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--resolution", 128], "holds answers of settings 'max-tokens=128'"),
        (["--max-tokens", 9], "holds answers of settings 'max-tokens=128'"),
        (["--metric", "vqa"], "holds answers of metric 'exact'"),
        (["--suffix", "Be short."], "holds answers of suffix ''"),
    ],
)
def test_answers_of_something_else(evaluate, asked, data, tmp_path, change, message):
    out = tmp_path / "a.jsonl"
    evaluate(data, "-o", out)
    before = out.read_bytes()
    _, err = evaluate(data, "-o", out, *change, code=1)
    advice = "choose another -o, or use --overwrite to begin anew"
    assert err == f"error: {out}: {message}; {advice}\n"
    assert out.read_bytes() == before


def test_data_that_changed_meanwhile(evaluate, asked, data, tmp_path):
    out = tmp_path / "a.jsonl"
    evaluate(data, "-o", out)
    data.write_text(data.read_text().replace("What is this? 3", "What is that? 3"))
    _, err = evaluate(data, "-o", out, code=1)
    assert err == (
        f"error: {out}: its answer q3 is to another question than {data}:4; name"
        " another file, or use --overwrite to begin anew\n"
    )


def test_another_set_of_the_same_name(evaluate, asked, data, tmp_path):
    out = tmp_path / "a.jsonl"
    evaluate(data, "-o", out)
    data.write_text(data.read_text().replace('"q3"', '"new"'))
    before = out.read_bytes()
    _, err = evaluate(data, "-o", out, code=1)
    assert err == (
        f"error: {out}: its answer 'q3' is to no question of questions.jsonl; name"
        " another file, or use --overwrite to begin anew\n"
    )
    assert out.read_bytes() == before


def test_two_runs_at_once(evaluate, asked, data, tmp_path):
    out = tmp_path / "a.jsonl"
    out.touch()
    with out.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        _, err = evaluate(data, "-o", out, code=1)
    assert err == f"error: {out}: another run is writing it; wait for that one\n"
    assert asked == []


@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c(evaluate, asked, data, tmp_path, monkeypatch, kept):
    from fastvlm_mlx.app.evaluation import run as eval_run

    real = eval_run.ask_questions

    def ask(*given, **options):
        for number, answer in enumerate(real(*given, **options)):
            if number == 5:
                raise KeyboardInterrupt
            yield answer

    monkeypatch.setattr(eval_run, "ask_questions", ask)
    out = ["-o", tmp_path / "a.jsonl"] if kept else []
    printed, err = evaluate(data, *out, code=130)
    assert printed == ""
    last = "run the same command to go on" if kept else "none is kept; -o FILE.jsonl"
    assert err.splitlines()[-1].startswith(f"7 to go; {last}")
    if kept:
        assert len(read_lines(tmp_path / "a.jsonl")) == 5


def test_killed_at_any_moment(tmp_path, tiny):
    """However often it is killed, at the end there is one line for each question."""
    data, out = make_set(tmp_path / "set", count=400), tmp_path / "a.jsonl"
    command = [sys.executable, "-m", "tests.support.killed_evals", tiny]
    done = subprocess.run(
        [*command, str(data), str(out), "12"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr  # as 40 failed
    assert len(done.stdout.split()) > 3  # killed at different moments
    lines = read_lines(out)
    assert sorted(line["id"] for line in lines) == sorted(f"q{n}" for n in range(400))
    for line in lines:
        if line["id"].endswith("9"):
            assert line["error"].endswith("lost.png: no such file")
        else:
            assert line["answer"] == f"answer {line['id']}"


@pytest.mark.slow
def test_killed_with_a_model(tmp_path, tiny):
    data, out = make_set(tmp_path / "set", count=60), tmp_path / "a.jsonl"
    code = "from fastvlm_mlx.app import cli; cli.main()"
    command = [sys.executable, "-c", code, "eval", tiny, str(data), "-o", str(out)]
    command += ["--max-tokens", "8", "--batch", "1"]
    moments = random.Random(7)
    for _ in range(10):
        before = out.stat().st_size if out.exists() else 0
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as child:
            while child.poll() is None:
                if (out.stat().st_size if out.exists() else 0) > before:
                    time.sleep(moments.uniform(0, 0.05))
                    child.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.005)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(line["id"] for line in read_lines(out)) == sorted(
        f"q{n}" for n in range(60)
    )
    assert re.search(r"^all +60 ", done.stdout, re.MULTILINE)


def test_a_bar_on_a_terminal(tmp_path: Path, tiny):
    data = make_set(tmp_path / "set", count=40)
    code = "from fastvlm_mlx.app import cli; cli.main()"
    arguments = ["-c", code, "eval", tiny, str(data), "-o", str(tmp_path / "a.jsonl")]
    arguments += ["--max-tokens", "30", "--batch", "1"]
    child = pexpect.spawn(
        sys.executable, arguments, encoding="utf-8", timeout=60, dimensions=(24, 100)
    )
    child.expect(r"answering[^\r]*[1-9]\d?/40[^\r]*question[^\r]* left")
    child.sendintr()
    child.expect(r"\d+ questions answered in .*\r\n\d+ to go; run the same command")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert 0 < len(read_lines(tmp_path / "a.jsonl")) < 40
