"""The comparison with peers: medians, ratios, failures."""

import argparse
import sys

import pytest

from benchmarks.peers import __main__ as program
from benchmarks.peers import contenders, protocol, report
from benchmarks.peers.contenders import Peer
from tests.benchmarks.test_paper_report import MACHINE

ANSWERS = """
import json, sys
print(json.dumps({"load": 1, "versions": {"x": "1"}, "peak_memory": 5}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("fail"):
        print("no such thing", file=sys.stderr)
        sys.exit(1)
    print(json.dumps({"asked": asked["do"]}), flush=True)
"""


def peer(name: str = "mlx-vlm", failed: str | None = None) -> Peer:
    from pathlib import Path

    return Peer(name, "x", sys.executable, Path(), {"resolution": 64}, failed=failed)


@pytest.fixture
def scripted(tmp_path, monkeypatch) -> Peer:
    (tmp_path / "stand_in.py").write_text(ANSWERS)
    monkeypatch.setattr(contenders, "ROOT", tmp_path)
    found = peer()
    found.module = "stand_in"
    found.start()
    return found


def test_progress_is_a_line_a_step_in_a_pipe(tmp_path, monkeypatch, capsys):
    asked = contenders.Peer("ours", "x", sys.executable, tmp_path, {"resolution": 64})
    first = {"ttft": 1, "generation_tps": 1, "ids": [1], "prompt_tokens": 1}
    first |= {"cpu_seconds": 1, "peak_memory": 1}
    monkeypatch.setattr(asked, "ask", lambda **request: first)
    monkeypatch.setattr(asked, "cold", lambda image, prompt: 1.0)
    asked.rounds = 2
    options = argparse.Namespace(warmup=0, rounds=2, tokens=1)
    found = program.rounds({"ours": asked}, options)
    program.cold({"ours": asked}, found, 1)
    assert capsys.readouterr().err.splitlines() == [
        "round 1 of 2: ours",
        "round 2 of 2: ours",
        "cold start 1 of 1: ours",
    ]


def test_a_peer_answers_and_stops(scripted):
    assert scripted.loaded["versions"] == {"x": "1"}
    assert scripted.ask(do="first") == {"asked": "first"}
    scripted.stop()
    assert scripted.failed is None


def test_a_peer_that_dies_is_out_with_its_last_words(scripted):
    assert scripted.ask(do="first", fail=True) is None
    assert scripted.failed == "no such thing"
    assert scripted.ask(do="first") is None
    scripted.stop()


def test_a_peer_that_cannot_start(tmp_path):
    models = {"llava": tmp_path, "transformers": None}
    found = contenders.start("transformers", models, 64, tmp_path, {})
    assert found.failed == "no model in its layout; give --transformers-model"
    python = {"mlx-vlm": "/no/such/python"}
    found = contenders.start("mlx-vlm", models, 64, tmp_path, python)
    assert found.failed and found.failed.startswith("not set up: ")


def test_medians_ratios_and_reasons():
    found = {
        "ours": {
            "ttft": [1.0, 3.0, 2.0],
            "follow_up_ttft": [0.1],
            "generation_tps": [9.0, 10.0, 11.0],
            "bare_tokens_per_second": [10.0, 10.0, 10.0],
            "memory": [100, 300, 200],
            "ids": [[1, 2]],
            "prompt_tokens": [51],
        },
        "mlx-vlm": {"ttft": [8.0], "memory": [600], "ids": [[1, 2]]},
        "transformers": {},
    }
    chosen = {name: peer(name) for name in found}
    chosen["transformers"].failed = "not set up: no network"
    document = report.document(chosen, found, {"rounds": 3}, MACHINE)
    assert document["results"]["ours"]["median"]["ttft"] == 2.0
    assert document["ratios"]["mlx-vlm"] == {"ttft": 0.25, "memory": 0.5}
    assert document["decode_of_bare"] == 1.0
    assert document["same_answer"] == {"mlx-vlm": True}
    shown = report.table(document)
    assert "not measured: transformers: not set up: no network" in shown
    assert "mlx-vlm: the same tokens as ours" in shown
    assert "our follow-up: 0.050 of our TTFT" in shown


def test_slow_peers_take_part_in_fewer_rounds():
    for name, slow, wanted in (
        ("ours", 1, 4),
        ("mlx-vlm", 1, 1),
        ("mlx-vlm", None, 4),
    ):
        found = peer(name)
        found.limit(3, 1, slow)
        assert found.rounds == wanted


def test_the_answer_begins_after_the_marker():
    marker = b"assistant\n"
    assert contenders._text_after(marker, b"Prompt: user ... assistant\n\n") == b"\n"
    assert contenders._text_after(marker, b"Prompt: user") == b""
    assert contenders._text_after(b"", b"An") == b"An"


def test_pinned_versions(monkeypatch):
    monkeypatch.setattr(contenders, "REQUIREMENTS", {"a": ("torch", "timm")})
    contenders.pin("torch==2.0")
    assert contenders.REQUIREMENTS == {"a": ("torch==2.0", "timm")}


def test_speed_from_stamps():
    found = protocol.summary(10.0, [12.0, 12.5, 13.0], [1, 2, 3])
    assert (found["ttft"], found["generation_tps"]) == (2.0, 2.0)
    assert protocol.summary(0, [1.0], [7])["generation_tps"] is None
