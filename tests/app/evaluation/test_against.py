"""`eval --against`: what OTHER may be, what is compared, and what is said of it."""

import json
from pathlib import Path

import pytest

from fastvlm_mlx import fastvlm
from fastvlm_mlx.adapters.files import write_adapter
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.app import session
from fastvlm_mlx.app.evaluation import setup
from fastvlm_mlx.app.evaluation.setup import Models, Setup, other_setup
from fastvlm_mlx.app.session import ConversationOptions
from fastvlm_mlx.evaluation.statistics import newcombe
from tests.support.eval_sets import read_lines
from tests.support.small_adapters import make_adapter

pytest_plugins = ["tests.support.eval_runs"]
ALL = [f"q{number}" for number in range(12)]
BASE = Setup("demo", max_tokens=128, batch=8)


def test_two_resolutions(evaluate, asked, data, tmp_path, tiny):
    asked.right = {None: ALL[:8], 128: ALL[6:9]}
    out = tmp_path / "a.jsonl"
    table, err = evaluate(data, "-o", out, "--against", "resolution=128")
    lines = table.splitlines()
    at = lines.index("against resolution=128:")
    assert lines[at + 1].split() == [
        *("n", tiny, "resolution=128", "difference", "95%", "interval")
    ]
    low, high = newcombe(2, 1, 6, 12)
    ends = [f"{100 * low:+.1f}", "to", f"{100 * high:+.1f}"]
    assert lines[at + 4].split() == ["all", "12", "66.7", "25.0", "-41.7", *ends]
    assert lines[at + 5] == (
        "resolution=128 won 1, lost 6, and answered 7 of 12 otherwise; McNemar's exact"
        " test: p = 0.12: the difference may be chance"
    )
    # The answers of both are kept, and go on.
    assert len(read_lines(out)) == 12
    kept = tmp_path / "a.against-resolution=128.jsonl"
    assert {line["settings"] for line in read_lines(kept)} == {
        "resolution=128, max-tokens=128"
    }
    asked.clear()
    again, err = evaluate(data, "-o", out, "--against", "resolution=128")
    assert (again, asked) == (table, [])
    assert f"{tiny}, resolution=128: 12 of 12 questions are answered already" in err


def test_a_clear_difference(evaluate, asked, data):
    asked.right = {None: ALL, 128: []}
    table, _ = evaluate(data, "--against", "resolution=128")
    assert "p = 0.00049: resolution=128 is worse\n" in table
    asked.right = {None: [], 128: ALL}
    table, _ = evaluate(data, "--against", "resolution=128", "--json")
    found = json.loads(table)["against"]
    assert (found["won"], found["lost"], found["changed"]) == (12, 0, 12)
    assert (found["first"], found["second"], found["difference"]) == (0, 1, 1)
    assert found["p"] == 2 * 0.5**12 and found["test"] == "McNemar's exact test"
    assert found["categories"].keys() == {"odd", "even"}
    assert found["name"] == "resolution=128"


def test_no_difference(evaluate, asked, data):
    asked.right = {None: ALL, 128: ALL}
    table, _ = evaluate(data, "--against", "resolution=128")
    assert "won 0, lost 0, and answered 0 of 12 otherwise" in table
    assert "p = 1: the difference may be chance" in table


def test_graded_marks(evaluate, asked, data):
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    for row in rows:
        row["answers"] = ["yes"] * 2 + ["maybe"] * 8
        del row["answer"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked.right = {None: ALL[:3], 128: ALL[:9]}
    table, _ = evaluate(data, "--metric", "vqa", "--against", "resolution=128")
    assert "sign test: p = 0.031: resolution=128 is better" in table


def test_an_earlier_file_of_answers(evaluate, asked, data, tmp_path, tiny):
    old = tmp_path / "old.jsonl"
    asked.right = {None: ALL[:9]}
    evaluate(data, "-o", old, "--limit", 9)
    with old.open("a") as file:
        file.write('{"id": "torn')  # by a crash
    asked.clear()
    asked.right = {128: ALL}
    table, err = evaluate(data, "--resolution", 128, "--against", old)
    assert asked == ALL
    assert "has answers to 9 of 12 questions; those are compared" in err
    name = f"{tiny}, max-tokens=128"
    assert f"against {name}:" in table and f"{name} won 0, lost " in table


def test_failures_of_the_other_count_as_wrong(evaluate, asked, data):
    asked.right = {None: ALL, 128: ALL}
    asked.broken = {"q4"}
    _, err = evaluate(data, "--against", "resolution=128", code=1)
    assert "2 failed, and count as wrong:" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resolution=512", {"options": ConversationOptions(resolution=512)}),
        ("tiles=2x3", {"options": ConversationOptions(tiles=(2, 3))}),
        ("fit=crop", {"options": ConversationOptions(fit="crop")}),
        (" dtype = bfloat16", {"dtype": "bfloat16"}),
        ("0.5b", {"model": "0.5b"}),
        ("owner/name", {"model": "owner/name"}),
    ],
)
def test_what_other_may_be(text, expected):
    found = other_setup(text, BASE)
    assert isinstance(found, Setup)
    assert {name: getattr(found, name) for name in expected} == expected
    assert found != BASE


def test_an_adapter_is_put_on_the_model(run, demo_adapter, data, tmp_path):
    shown = run(
        *("eval", "demo", data, "--limit", 2, "--max-tokens", 2),
        *("--against", demo_adapter, "-o", tmp_path / "a.jsonl"),
    )
    assert shown.code == 0, shown.err
    (kept,) = tmp_path.glob("a.against-*.jsonl")
    assert {line["model"] for line in read_lines(kept)} == {"demo:flags"}
    assert f"against {demo_adapter}:" in shown.out


@pytest.fixture
def demo_adapter(tmp_path: Path) -> Path:
    place = tmp_path / "flags"
    adapter = make_adapter(fastvlm.load("demo"), AdapterSpec(rank=2), 0.01)
    write_adapter(place, adapter)
    return place


def test_a_package_is_the_encoder(tmp_path, monkeypatch):
    package = tmp_path / "a.mlpackage"
    package.mkdir()
    monkeypatch.setattr(setup.packages, "check", lambda *given: True)
    found = other_setup(str(package), BASE)
    assert isinstance(found, Setup) and found.encoder == str(package)
    assert f"encoder={package}" in found.settings


def test_a_model_is_loaded_once_for_its_resolutions(monkeypatch):
    loaded: list[str] = []

    def open_model(name: str, **options: object):
        loaded.append(f"{name} {options['dtype']}")
        return name, object()

    monkeypatch.setattr(session, "open_model", open_model)
    models = Models()
    first = models.of(BASE)
    assert models.of(other_setup("resolution=512", BASE)) is first  # type: ignore
    other = models.of(other_setup("dtype=bfloat16", BASE))  # type: ignore
    assert other is not first
    assert loaded == ["demo None", "demo bfloat16"]
