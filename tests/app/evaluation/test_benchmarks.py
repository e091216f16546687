"""`eval` on a small set of each benchmark, in the form in which it is downloaded."""

import json

import pytest

from tests.support import benchmark_sets, benchmark_tables
from tests.support.eval_sets import read_lines

pytest_plugins = ["tests.support.eval_runs"]
PHRASE = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
SETS = {
    "textvqa": (benchmark_sets.textvqa, "vqa", PHRASE),
    "docvqa": (benchmark_sets.docvqa, "anls", PHRASE),
    "infovqa": (benchmark_sets.infovqa, "anls", PHRASE),
    "chartqa": (benchmark_sets.chartqa, "relaxed", PHRASE),
    "gqa": (benchmark_sets.gqa, "gqa", PHRASE),
    "pope": (benchmark_sets.pope, "yes_no", PHRASE),
    "scienceqa": (benchmark_sets.scienceqa, "scienceqa", LETTER),
    "seedbench": (benchmark_sets.seedbench, "letter", LETTER),
    "mmmu": (benchmark_tables.mmmu, "mmmu", LETTER),
    "ocrbench": (benchmark_tables.ocrbench, "contained", ""),
    "ai2d": (benchmark_tables.ai2d, "letter", LETTER),
}


@pytest.mark.parametrize("name", SETS)
def test_every_image_is_opened_and_every_answer_scored(evaluate, tmp_path, name):
    make, metric, suffix = SETS[name]
    if name in ("mmmu", "ocrbench"):
        pytest.importorskip("pyarrow")
    root, out = tmp_path / "set", tmp_path / "a.jsonl"
    root.mkdir()
    place = make(root) or root
    shown, err = evaluate(place, "-o", out, "--max-tokens", 2, "--json")
    found = json.loads(shown)
    assert (found["benchmark"], found["metric"]) == (name, metric), err
    assert found["suffix"] == suffix
    assert found["questions"] == len(read_lines(out)) > 0
    assert found["failed"] == 0
    assert 0 <= found["interval"][0] <= found["score"] <= found["interval"][1] <= 1
    # The paper's figure is not that of a model of another size.
    assert found["published"] is None
    if suffix:
        prompts = [line["prompt"] for line in read_lines(out)]
        assert all(each.endswith((PHRASE, LETTER)) for each in prompts)
