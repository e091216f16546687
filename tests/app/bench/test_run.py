"""The benchmark's report: what is in it, how it compares, what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx import fastvlm
from fastvlm_mlx.app import charts, machine
from fastvlm_mlx.app.bench import roofline, run, stages, table
from fastvlm_mlx.errors import FastVLMError, OptionError
from tests.support.mock_model import MockModel
from tests.support.paths import ROOT

STAGES = {"decode", "preprocess", "encode", "project", "prefill", "first_token"}


def request(**changes) -> run.Request:
    values = {
        "model": "mock",
        "resolutions": (),
        "encoders": (),
        "tiles": None,
        "image": None,
        "prompt": "What is this?",
        "max_tokens": 3,
        "runs": 2,
        "warmup": 1,
        "cold": False,
        "as_json": False,
        "plot": None,
    }
    return run.Request(**{**values, **changes})


@pytest.fixture
def mock(monkeypatch) -> MockModel:
    model = MockModel()
    monkeypatch.setattr(fastvlm, "load", lambda name, **options: model)
    monkeypatch.setattr(
        stages, "example", lambda: Image.new("RGB", (64, 48), (90, 60, 30))
    )
    speed = roofline.Speed("test", 1e11, 1e10)  # measuring it takes a second
    monkeypatch.setattr(roofline, "measure", lambda dtype, rounded: speed)
    return model


@pytest.fixture
def report(mock) -> dict:
    return run.gather(request(resolutions=(128, 64), encoders=("mlx", "coreml-ane")))


def test_every_stage_of_every_resolution(report):
    assert [result["resolution"] for result in report["results"]] == [64, 128]
    wanted = STAGES | {"ttft", "paper_ttft", "follow_up_ttft", "decode_token"}
    for result, tokens in zip(report["results"], (1, 4), strict=True):
        assert result["seconds"].keys() == wanted
        for times in result["seconds"].values():
            assert len(times["runs"]) == 2
            assert 0 < times["median"] <= times["p95"] <= max(times["runs"])
        assert result["visual_tokens"] == tokens
        assert result["generation_tokens"] == 3  # no token ends it early
        assert result["generation_tps"] > 0
        assert 0 < result["limits"]["encode"]["fraction"]
        assert result["predictions"] == []


def test_what_was_not_measured_is_said(report):
    assert report["not_measured"].keys() == {
        "energy",
        "encoder coreml-ane",
        "predictions",
    }
    shown = table.table(report)
    assert "not measured: encoder coreml-ane: needs macOS" in shown
    assert "not measured: predictions: the model is so small that a GPU" in shown
    assert "tokens per second" not in shown.split("not measured")[1]


def test_the_machine_is_named(report):
    machine = report["machine"]
    assert machine["chip"] and machine["cores"] > 0 and machine["memory"] > 1e8
    assert {"mlx", "mlx-lm", "fastvlm-mlx", "system"} <= machine["versions"].keys()
    shown = table.table(report)
    assert machine["chip"] in shown and machine["versions"]["mlx"] in shown


def test_each_run_encodes_an_image_of_its_own(mock):
    run.gather(request(resolutions=(64,), runs=2, warmup=1))
    # Two images a round; those of the staged half bypass `encode_pixels`.
    assert mock.encoded == 3


def test_the_model_is_left_as_it_was(mock):
    tokenizer = mock.tokenizer
    run.gather(request(resolutions=(64,), runs=1, warmup=0))
    assert mock.tokenizer is tokenizer and tokenizer.stop_ids


def test_tiles_count_as_images(mock):
    report = run.gather(request(resolutions=(64,), tiles="1x2", runs=1))
    assert report["results"][0]["visual_tokens"] == 3


def test_json_is_printed_when_asked_for(mock, capsys, tmp_path):
    run.run(request(resolutions=(64,), plot=tmp_path / "plot.png"))
    shown = capsys.readouterr()
    assert "{" not in shown.out and shown.err == ""
    assert "TTFT (path and prompt to first text)" in shown.out
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (charts.WIDTH, charts.HEIGHT)
        assert len(image.getcolors(1 << 16) or ()) > 10
    run.run(request(resolutions=(64,), as_json=True))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert json.loads(printed)["format"] == run.FORMAT


def test_comparing_two_reports(report, capsys, tmp_path):
    faster = json.loads(json.dumps(report))
    for times in faster["results"][1]["seconds"].values():
        times["median"] /= 2
    files = []
    for name, content in (("a", report), ("b", faster)):
        files.append(tmp_path / name)
        files[-1].write_text("a table\n\n" + json.dumps(content) + "\n")
    run.compare(*files, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [set(case["ratio"].values()) for case in found] == [{1.0}, {0.5}]
    run.compare(*files, as_json=False)
    shown = capsys.readouterr().out
    assert "128 px, encoder mlx" in shown and "0.50x" in shown
    assert "conditions differ" not in shown
    faster["machine"]["chip"] = "Another"
    files[1].write_text(json.dumps(faster))
    run.compare(*files, as_json=False)
    assert "the conditions differ: chip" in capsys.readouterr().out


def test_what_is_no_report(tmp_path, report):
    for text in ("", "nonsense", "{}", "[]", "3", '{"format": "other"}'):
        (tmp_path / "x").write_text(text)
        with pytest.raises(OptionError, match="no report of `fastvlm-mlx bench`"):
            run.read(tmp_path / "x")
    with pytest.raises(OptionError, match="no such file"):
        run.read(tmp_path / "absent")
    other = {**report, "results": []}
    (tmp_path / "x").write_text(json.dumps(other))
    with pytest.raises(OptionError, match="no resolution in common"):
        run.compare(tmp_path / "x", tmp_path / "x", as_json=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": 0}, "--runs 0: use at least 1"),
        ({"max_tokens": 1}, "--max-tokens 1: use at least 2"),
        ({"resolutions": (100,)}, "resolution 100: must be a multiple of 64"),
        ({"plot": Path("x.gif")}, "--plot x.gif: name a .png or .jpg file"),
        ({"encoders": ("ane",)}, "--encoder ane: unknown; use mlx, coreml-all"),
    ],
)
def test_refused_options(mock, change, message):
    with pytest.raises(OptionError) as caught:
        run.run(request(**change))
    assert message in str(caught.value)


def test_a_plot_replaces_charts_only(mock, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(run, "gather", lambda request: run_report)
    run_report = {
        "results": [
            {
                "resolution": 64,
                "encoder": "mlx",
                "seconds": {"encode": {"median": 1.0}},
            }
        ],
        "model": "m",
        "machine": {"chip": "c"},
    }
    monkeypatch.setattr("fastvlm_mlx.app.bench.table.table", lambda report: "")
    for name in ("chart.png", "chart.jpg"):
        for _ in range(2):
            run.run(request(resolutions=(64,), plot=Path("~") / name))
            assert charts.is_chart(tmp_path / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    before = sorted(os.listdir(tmp_path))
    for name, reason in (
        ("photo.jpg", "exists and is no chart of this program; name another output"),
        ("empty.png", "exists and is no chart of this program; name another output"),
        ("folder.png", "exists and is no chart of this program; name another output"),
        ("pipe.png", "is a device, a pipe or a socket; name another output"),
    ):
        with pytest.raises(OptionError, match=f"{name}: {reason}$"):
            run.run(request(resolutions=(64,), plot=tmp_path / name))
    assert sorted(os.listdir(tmp_path)) == before
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.size == (8, 8)


def test_a_plot_that_cannot_be_written(mock, tmp_path, capsys):
    with pytest.raises(FastVLMError, match="cannot be written"):
        run.run(request(resolutions=(64,), plot=tmp_path / "absent" / "x.png"))


def test_a_cold_start(reference, images):
    # Its peak is its own, whatever the process that starts it has taken.
    own = np.ones(700_000_000, np.uint8)
    del own
    case = stages.Case(256, None, "Describe the image.", 2, 1, 0)
    file = images / "coffee.png"
    found = stages.cold(str(reference / "llava-mini"), case, file)
    assert isinstance(found, dict), found
    assert found["cold_ttft"] > 0.1 and 1e7 < found["peak_memory"] < 600e6
    reason = stages.cold("/nowhere", case, file)
    assert isinstance(reason, str) and reason.startswith("error: ")


def test_percentiles():
    assert run.p95([5.0]) == 5.0
    assert run.p95([3.0, 1.0, 2.0]) == pytest.approx(2.9)


def test_round_ticks():
    for top, steps in ((1133, 5), (0.4, 4), (7, 4), (1.0, 5)):
        step, end = charts.ticks(top)
        assert end >= top and round(end / step) == steps


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from fastvlm_mlx.app.commands import bench\n"
        "print([m for m in ('mlx', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_the_commit_of_a_checkout_is_found():
    if (ROOT / ".git").exists():
        assert machine.facts()["commit"]
