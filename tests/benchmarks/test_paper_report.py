"""The paper's report from given times: ratios, marks, completeness."""

import re

import pytest
from PIL import Image

from benchmarks.paper import figures, plots, report, tables
from benchmarks.paper.encoders import (
    ENCODERS,
    LANGUAGE_MODELS,
    ConvNeXt,
    ConvNeXtConfig,
    Encoder,
)
from benchmarks.paper.measure import Bench
from fastvlm_mlx.app.bench.roofline import Speed
from fastvlm_mlx.errors import OptionError
from tests.support.machine_facts import MACHINE

SPEED = Speed("test", 1e11, 1e10)


@pytest.fixture
def bench() -> Bench:
    """As if every encoder had taken twice its limit, Qwen2-0.5B its limit."""
    bench = Bench(SPEED, 1.0, lambda text: None)
    for key in report.wanted():
        limit = SPEED.seconds(bench.work(key))
        if len(key) == 3 and limit < 5:
            bench.runs[key] = [2 * limit, 3 * limit, limit]
        elif key[0] == "Qwen2-0.5B" and key[1] <= 1280:
            bench.runs[key] = [limit]
    return bench


def test_all_that_is_wanted_is_known():
    for key in report.wanted():
        assert key[0] in (ENCODERS if len(key) == 3 else LANGUAGE_MODELS)


def test_measured_and_computed_times(bench):
    measured = bench.time(("FastViTHD", 512, 1))
    assert measured.measured and measured.fraction == 0.5
    # Too slow to measure: at the share of the limit that smaller sizes reached.
    computed = bench.time(("ConvNeXt-L", 1536, 1))
    limit = SPEED.seconds(ENCODERS["ConvNeXt-L"].work(1536, bench.dtype.size))
    assert not computed.measured and computed.seconds == pytest.approx(2 * limit)
    # Never measured: at the median of its kind.
    assert bench.time(("Vicuna-7B", 144)).fraction == 1.0


def test_nothing_measured_computes_nothing():
    with pytest.raises(ValueError, match="nothing was measured"):
        Bench(SPEED, 1.0, print).time(("FastViTHD", 256, 1))


def test_what_is_too_large_is_not_measured():
    bench = Bench(SPEED, 1e9, print)
    bench.memory = 10e9
    assert bench.feasible(("FastViTHD", 1024, 1))
    assert not bench.feasible(("Vicuna-7B", 16))
    bench.budget = 1.0
    assert not bench.feasible(("FastViTHD", 1024, 1))


def test_a_small_measurement(monkeypatch):
    small = ConvNeXtConfig((1, 1), (8, 16))
    encoder = Encoder(
        0.1, 0, lambda resolution: ConvNeXt(small), small.tokens, small.work
    )
    monkeypatch.setitem(ENCODERS, "small", encoder)
    bench = Bench(SPEED, 1e9, lambda text: None)
    bench.measure([("small", 64, 1), ("small", 64, 1)], rounds=2)
    assert [len(runs) for runs in bench.runs.values()] == [2]


def test_the_report(bench):
    text = report.markdown(bench, MACHINE, 3, "wall")
    for title in (
        *figures.ENCODER_TABLES,
        "Table 10",
        "Direct resolution",
        "(table 2)",
    ):
        assert title in text
    for line in text.splitlines():
        assert not line.startswith("|") or not re.search(r"\bnan\b", line)
    # FastViTHD 256 against 1024: the paper's ratio, and ours by FLOPs.
    assert "| FastViTHD | 256 | 16 | 125.1M | 10.1 |" in text
    assert "| 0.04x | 0.06x |" in text
    assert "| 85x | 85.1x |" in text
    assert "| 7.9x | 7.9x |" in text  # Cambrian-1
    assert "| MiniGemini-HD | ConvNeXt-L + ViT-L/14 | Llama-3-8B | 1536 + 672 |" in text
    # Each computed time says from what.
    assert "| ConvNeXt-L, 1536 px | 3229 | 50% | ConvNeXt-L, 512 px |" in text
    assert "| Vicuna-7B, 16 tokens | 208 | 100% | the median of all |" in text
    assert " * |" in text  # Vicuna is computed
    assert "CPU seconds" not in text
    assert "CPU seconds" in report.markdown(bench, MACHINE, 3, "cpu")


def test_an_interrupted_measurement_goes_on(monkeypatch, tmp_path):
    small = ConvNeXtConfig((1, 1), (8, 16))
    for name in ("one", "two"):
        encoder = Encoder(
            0.1, 0, lambda resolution: ConvNeXt(small), small.tokens, small.work
        )
        monkeypatch.setitem(ENCODERS, name, encoder)
    keys = [("one", 64, 1), ("two", 64, 1)]
    conditions = {
        "machine": MACHINE,
        "speed": {"name": "test", "flops": 2e11, "bytes": 1e9},
        "rounds": 2,
        "clock": "wall",
    }
    path = tmp_path / "unfinished.json"
    first = Bench(SPEED, 1e9, lambda text: None)

    def interrupted() -> None:
        report.keep(first, conditions, path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.measure(keys, 2, interrupted)
    again = Bench(SPEED, 1e9, lambda text: None)
    report.take_up(again, conditions, path)
    assert list(again.runs) == keys[:1] and again.runs == first.runs
    assert (again.speed.flops, again.speed.bytes) == (2e11, SPEED.bytes)
    again.measure(keys, 2)
    assert again.runs[keys[0]] == first.runs[keys[0]] and len(again.runs) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 3}, "has rounds 2, not 3"),
        ({"clock": "cpu"}, "has clock wall, not cpu"),
        ({"machine": {**MACHINE, "commit": "b"}}, "is of commit 1234567, not b"),
    ],
)
def test_runs_of_other_conditions_are_not_taken_up(tmp_path, change, words):
    bench = Bench(SPEED, 1, print)
    conditions = {"machine": MACHINE, "rounds": 2, "clock": "wall"}
    conditions["speed"] = {"name": "", "flops": 1, "bytes": 1}
    path = tmp_path / "unfinished.json"
    with pytest.raises(OptionError, match="does not exist; leave --resume out"):
        report.take_up(bench, conditions, path)
    report.keep(bench, conditions, path)
    with pytest.raises(OptionError, match=f"{words}; leave --resume out"):
        report.take_up(bench, {**conditions, **change}, path)


def test_the_conditions_are_told():
    clean = {**MACHINE, "commit": "9b2f945", "load": 0.1}
    assert report.provenance(clean) == report.provenance(clean, 3, 0.1) == []
    busy, few, changed = report.provenance(
        {**MACHINE, "load": 13.5, "commit": "9b2f945+changes"}, rounds=1
    )
    assert "the load was 13.5 before the measurements" in busy
    assert few == "**Only 1 of at least 3 runs** were made."
    assert "uncommitted changes** over commit 9b2f945" in changed
    # What others used is known better than the load.
    assert report.provenance({**clean, "load": 13.5}, others=0.1) == []
    (busy,) = report.provenance(clean, others=0.5)
    assert "they used 0.5 of 2 cores" in busy


def test_systems_of_several_encoders_are_composed(bench):
    rows = {row.name: row for row in figures.TABLE_10}
    encode, prefill = tables.system(bench, rows["Cambrian-1"])
    names = ["SigLIP-SO400M", "ConvNeXt-XXL", "DINOv2 ViT-L/14", "ViT-L/14"]
    assert [crops.encoder for crops in rows["Cambrian-1"].encoders] == names
    alone = [bench.time((n, r, 1)) for n, r, _ in rows["Cambrian-1"].encoders]
    assert encode.seconds == pytest.approx(sum(each.seconds for each in alone))
    assert not encode.measured and not prefill.measured
    tiles, _ = tables.system(bench, rows["LLaVA-NeXT"])
    one = bench.time(("ViT-L/14", 336, 1))
    assert tiles.seconds == pytest.approx(5 * one.seconds) and tiles.measured
    assert tiles.fraction == pytest.approx(one.fraction)


def test_the_paper_s_own_sums():
    for row in figures.TABLE_10:
        encode, prefill, total = row.milliseconds
        assert encode + prefill == pytest.approx(total, abs=1)


def test_the_plots(bench, tmp_path):
    plots.plots(bench, tmp_path)
    for name in ("encode", "ttft", "tiling"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert len(image.getcolors(1 << 18) or ()) > 20


def test_tiles_are_five_images():
    assert tables.tiled(1024) == (("FastViTHD", 512, 5), ("Qwen2-0.5B", 320))
    assert tables.direct(1024) == (("FastViTHD", 1024, 1), ("Qwen2-0.5B", 256))
