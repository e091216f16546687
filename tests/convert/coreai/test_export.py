"""The folder of a Core AI export: what is in it, and what becomes of a failed one."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from fastvlm_mlx.convert.coreai import asset, verify
from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.convert.coreai.probe import probe
from fastvlm_mlx.convert.encoder_reference import Reference
from fastvlm_mlx.convert.to_coreai import export
from fastvlm_mlx.coreai_runtime import CoreAIModel
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.fastvlm import load
from fastvlm_mlx.model_folder import converted
from tests.support.coreai import needs_coreai
from tests.support.paths import ROOT

pytestmark = needs_coreai


@pytest.fixture(scope="module")
def folder(reference: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("coreai") / "fastvlm"
    report = export(reference / "llava-mini", out)
    assert [verdict.passed for verdict in report.verdicts] == [True] * 3
    return out


def test_what_apples_runner_reads(folder: Path):
    found = json.loads((folder / "metadata.json").read_text())
    assert (found["metadata_version"], found["kind"]) == ("0.2", "vlm")
    for role, name in found["assets"].items():
        assert role in ("main", "vision", "embedding") and (folder / name).is_dir()
    tokens = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    (image,) = [t for t in tokens["added_tokens"] if t["content"] == "<image>"]
    vision, language = found["vision"], found["language"]
    assert vision["image_token_id"] == image["id"] < language["vocab_size"]
    assert (vision["image_size"], vision["image_token_count"]) == (256, 16)
    assert (vision["image_strategy"], vision["rescale_factor"]) == ("pad", 1.0)
    assert language["embedded_tokenizer"] is True
    # The runner refuses other types and shapes than these.
    with CoreAIModel(folder / found["assets"]["vision"]) as model:
        described = model.describe("main")
        (name,) = described.input_names
        assert described.input_descriptor(name).dtype == "float32"
        (given,) = model.run("main", {name: np.zeros((1, 3, 256, 256), np.float32)})
        images = model.run("main", {name: np.zeros((1, 3, 256, 256), np.float32)})
    with CoreAIModel(folder / found["assets"]["embedding"]) as model:
        ids = np.array([[0, image["id"], language["vocab_size"] - 1]], np.int32)
        (rows,) = model.run("main", {"input_ids": ids}).values()
    embeddings = images[given]
    assert embeddings.dtype == rows.dtype == np.float16
    assert embeddings.shape == (1, 16, 64) and rows.shape == (1, 3, 64)


def test_an_asset_says_where_it_comes_from(folder: Path):
    found = asset.read(folder / "vision.aimodel")
    assert found.values["source"] == "llava-mini"
    assert found.values["converter"].startswith("fastvlm-mlx ")
    assert (found.values["precision"], found.compressed) == ("float16", False)
    metadata = json.loads((found.path / "metadata.json").read_text())
    assert "research only" in metadata["license"]


def test_a_folder_of_ours_is_replaced_and_another_is_not(
    folder: Path, reference: Path, tmp_path: Path
):
    folder = shutil.copytree(folder, tmp_path / "ours")
    exists = f"^{re.escape(str(folder))}: exists already; "
    with pytest.raises(OptionError, match=exists):
        export(reference / "llava-mini", folder)
    small = CoreAIOptions(resolutions=(64,))
    export(reference / "llava-mini", folder, small, overwrite=True)
    assert (
        json.loads((folder / "metadata.json").read_text())["vision"]["image_size"] == 64
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "metadata.json").write_text('{"user_data": {}}')
    with pytest.raises(OptionError, match="mine: was not written by fastvlm-mlx"):
        export(reference / "llava-mini", tmp_path / "mine", small, overwrite=True)


def test_drift_is_not_written(reference: Path, tmp_path: Path):
    # 4 bits are too few for layers as narrow as these.
    options = CoreAIOptions(resolutions=(64,), compression="int4-block")
    with pytest.raises(
        OptionError,
        match=r"/x: 1?2?\d\.\d dB PSNR of vision main at 64 px is below 25 dB; nothing"
        " was written; use --precision float32 or a milder --compress$",
    ):
        export(reference / "llava-mini", tmp_path / "x", options)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_said_before_the_work(
    reference: Path, tmp_path: Path, monkeypatch
):
    converted(reference / "llava-mini")  # into the cache, before the disk is full
    monkeypatch.setattr("fastvlm_mlx.files.disk_space.free_space", lambda path: 1000)
    needed = r"\d MB needed, 1\.0 kB free; free some space"
    with pytest.raises(OptionError, match=needed):
        export(reference / "llava-mini", tmp_path / "x", CoreAIOptions())
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up(reference: Path, tmp_path: Path, monkeypatch):
    from fastvlm_mlx.convert import temporary_files, to_coreai

    def full(*_args, **_options):
        raise RuntimeError("failed to persist mlasset")

    monkeypatch.setattr(to_coreai.asset, "write", full)
    monkeypatch.setattr(temporary_files, "free_space", lambda path: 1000)
    with pytest.raises(OptionError, match="/x: does not fit on its disk"):
        export(reference / "llava-mini", tmp_path / "x", CoreAIOptions())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("end", "step"),
    [
        (signal.SIGINT, "comparing"),
        pytest.param(signal.SIGKILL, "building", marks=pytest.mark.slow),
        (signal.SIGKILL, "writing"),
    ],
)
def test_an_export_that_ends_early_leaves_nothing(
    reference: Path, tmp_path: Path, end: signal.Signals, step: str
):
    out = tmp_path / "x"
    code = f"""
        import sys, time
        from fastvlm_mlx.convert.coreai.options import CoreAIOptions
        from fastvlm_mlx.convert.to_coreai import export
        def say(line):
            print(line, flush=True)
            if line.startswith({step!r}):
                time.sleep(60)
        export(sys.argv[1], sys.argv[2], CoreAIOptions(resolutions=(64,)), notify=say)
        """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), reference / "llava-mini", out],
        cwd=ROOT,
        env=os.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(step):
            break
    time.sleep(0.2)
    process.send_signal(end)
    process.communicate(timeout=20)
    assert process.returncode
    assert not out.exists()
    if end == signal.SIGKILL and step == "writing":
        # What was killed is removed by the next run.
        export(reference / "llava-mini", out, CoreAIOptions(resolutions=(64,)))
        assert os.listdir(tmp_path) == ["x"]


def test_damaged_assets_give_one_line(folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"x: not a Core AI model; give an \.aim"):
        asset.read(tmp_path / "x")
    stored = asset.read(folder / "vision.aimodel")
    broken = tmp_path / "broken.aimodel"
    broken.mkdir()
    program = (stored.path / "main.mlirb").read_bytes()
    (broken / "main.mlirb").write_bytes(program[:1000])
    with pytest.raises(CheckpointError, match=r"cannot be read \(no such file or"):
        asset.read(broken)
    (broken / "main.hash").write_bytes((stored.path / "main.hash").read_bytes())
    with pytest.raises(CheckpointError, match="main.mlirb is not the file that"):
        asset.read(broken)


def test_a_program_that_is_none_is_one_line(folder: Path, tmp_path: Path):
    broken = tmp_path / "broken.aimodel"
    broken.mkdir()
    for program, message in (
        (b"nonsense", "main.mlirb is no Core AI program"),
        (b"ML\xefR\x0dnonsense" * 9, r"Core AI (cannot load|ends with SIG\w+ when)"),
    ):
        (broken / "main.mlirb").write_bytes(program)
        (broken / "main.hash").write_bytes(hashlib.sha256(program).digest())
        (broken / "metadata.json").write_text("{}")
        with pytest.raises(CheckpointError, match=rf"^\S+: {message}") as caught:
            probe(asset.read(broken))
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith("; export it again")
    probe(asset.read(folder / "embed.aimodel"))


@pytest.mark.parametrize(
    ("ends", "message", "calls"),
    [
        ([0], None, 1),
        ([-6, 0], None, 2),
        ([-6, -11], "ends with SIGSEGV when it loads it", 2),
        ([-6, 1], r"cannot load it \(why\)", 2),
        ([1], r"cannot load it \(why\)", 1),
    ],
)
def test_a_load_that_a_signal_ended_is_tried_once_more(
    folder, monkeypatch, ends, message, calls
):
    made = []

    def load(command, **_):
        made.append(command)
        return subprocess.CompletedProcess(command, ends[len(made) - 1], b"", b"why\n")

    monkeypatch.setattr(subprocess, "run", load)
    stored = asset.read(folder / "embed.aimodel")
    if message is None:
        probe(stored)
    else:
        with pytest.raises(CheckpointError, match=f"Core AI {message}; export it"):
            probe(stored)
    assert len(made) == calls


def test_what_is_no_encoder_is_one_line(folder: Path, reference: Path):
    model = Reference(load(reference / "llava-mini", dtype="float32"))
    table = asset.read(folder / "embed.aimodel")
    with pytest.raises(CheckpointError, match="its function main takes input_ids "):
        verify.judge(table, model)
    encoder = asset.read(folder / "vision.aimodel")
    with pytest.raises(CheckpointError, match=r"Core AI cannot run it \(.*\); export"):
        verify.judge_embed(encoder, np.zeros((4, 64), np.float32))


def test_another_model_is_found_out(folder: Path, reference: Path):
    other = Reference(load(reference / "hf-mini", dtype="float32"))
    verdicts = verify.judge(asset.read(folder / "vision.aimodel"), other)
    assert not verdicts[0].passed
    with pytest.raises(OptionError, match="dB PSNR of vision main at 256 px is below"):
        verify.require(verdicts, "x", "it is of another model")
    assert re.fullmatch(
        r"vision main 256 px: [\d.]+ dB PSNR in Core AI, \d+\.\d\d s", str(verdicts[0])
    )
