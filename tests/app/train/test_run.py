"""`fastvlm-mlx train` from the command line to an adapter."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.adapters.files import read_adapter
from fastvlm_mlx.app.train import run as train_run
from fastvlm_mlx.train.events import Stepped
from fastvlm_mlx.train.learner import Learner
from tests.conftest import Result

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eighteen plain images, red or blue, with their colours."""
    folder = tmp_path / "colours"
    folder.mkdir()
    lines = ["file,question,answer"]
    for number in range(18):
        colour = ("red", "blue")[number % 2]
        shade = 150 + 5 * number
        rgb = (shade, 20, 20) if number % 2 == 0 else (20, 20, shade)
        Image.new("RGB", (64, 64), rgb).save(folder / f"{number}.png")
        lines.append(f"{number}.png,Which colour?,{colour}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run(run: Run, tiny: str, data: Path, here: Path):
    result = run(
        "train", tiny, data, "-o", "out", "--epochs", 2, "--rank", 2, "--lr", 1e-3,
        "--plot", "curves.png",
    )  # fmt: skip
    assert result.code == 0, result.err
    err = result.err.splitlines()
    assert err[0] == f"{data}: 18 samples, 18 images"
    assert err[1] == "12 to learn from, 6 held out"
    for start in (
        "images encoded in ",
        "before: exact ",
        "epoch 1/2: loss ",
        "epoch 2/2: loss ",
        "adapter: out (",
        "curves: curves.png",
        f"try: fastvlm-mlx chat IMAGE -m {tiny} --adapter out",
    ):
        assert sum(line.startswith(start) for line in err) == 1, (start, err)
    out = result.out.splitlines()
    assert out[0] == "held out, 6 questions:"
    assert out[1].startswith("  before                      exact ")
    assert out[4] == "  always the commonest answer exact 3/6"
    assert "expected" in out[5] and len(out) >= 5 + 1 + 6 + 1
    adapter = read_adapter(here / "out")
    assert adapter.spec.rank == 2
    records = [json.loads(r) for r in (here / "out/log.jsonl").read_text().splitlines()]
    kinds = [record["event"] for record in records]
    assert kinds == ["Started", *["Stepped"] * 3, "EpochEnded", *["Stepped"] * 3] + [
        "EpochEnded",
        "Scored",
    ]
    assert records[-1]["after"]["count"] == 6
    with Image.open(here / "curves.png") as image:
        assert image.format == "PNG"
    assert not (here / "out.training").exists()
    # What is there is not replaced unasked.
    again = run("train", tiny, data, "-o", "out")
    assert again.code == 1
    assert again.err.splitlines()[-1] == (
        "error: out: exists already; name another output or pass --overwrite"
    )


def test_ctrl_c_keeps_what_is_best_and_resume_ends_the_same(
    run: Run, tiny: str, data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = ("--epochs", 2, "--rank", 2, "--lr", 1e-3, "--held-out", 0)
    assert run("train", tiny, data, "-o", "whole", *settings).code == 0

    def interrupt(tell: object, event: Stepped) -> None:
        if event.step == 7:
            import signal

            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("fastvlm_mlx.app.train.progress.Narrator._stepped", interrupt)
        stopped = run("train", tiny, data, "-o", "out", *settings)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1] == (
        "interrupted; out holds the best so far, and the same command with --resume"
        " goes on"
    )
    read_adapter(here / "out")
    refused = run("train", tiny, data, "-o", "out", *settings)
    assert refused.code == 1
    assert refused.err == (
        "error: out.training: holds a run that was stopped; --resume goes on"
        " with it, --overwrite begins anew\n"
    )
    resumed = run("train", tiny, data, "-o", "out", *settings, "--resume")
    assert resumed.code == 0
    # The step after the one during which Ctrl-C was pressed is the last.
    assert "going on after step 8 of 10" in resumed.err
    whole, parts = read_adapter(here / "whole"), read_adapter(here / "out")
    for name, array in whole.tensors.items():
        difference = np.abs(np.array(array) - np.array(parts.tensors[name]))
        assert difference.max() < 1e-6


def test_a_loss_that_is_no_number_is_an_error(
    run: Run, tiny: str, data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    gradients, steps = Learner.gradients, []

    def diverging(*arguments):
        steps.append(arguments)
        loss, found = gradients(*arguments)
        return (float("nan") if len(steps) == 5 else loss), found

    monkeypatch.setattr(Learner, "gradients", diverging)
    result = run("train", tiny, data, "-o", "out", "--epochs", 2)
    assert result.code == 1
    [fault] = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert fault.endswith("is kept; train with a lower learning rate")
    read_adapter(here / "out")


def test_the_licence_is_told_before_and_copied(
    run: Run, tiny: str, data: Path, here: Path
):
    model = here / "model"
    shutil.copytree(tiny, model)
    (model / "LICENSE_MODEL").write_text("For research purposes only.")
    result = run("train", model, data, "-o", "out", "--epochs", 1, "--held-out", 0)
    assert result.code == 0, result.err
    err = result.err.splitlines()
    [told] = [n for n, line in enumerate(err) if line.startswith("the licence of ")]
    assert err[told].endswith("LICENSE_MODEL")
    assert told < min(n for n, line in enumerate(err) if line.startswith("epoch "))
    assert (here / "out" / "LICENSE_MODEL").read_text().startswith("For research")


def test_overwrite_removes_a_run_and_nothing_else(
    run: Run, tiny: str, data: Path, here: Path
):
    state = here / "out.training"
    state.mkdir()
    for name in ("state.safetensors", "diary.txt"):
        (state / name).write_bytes(b"anything")
    settings = ("--epochs", 1, "--held-out", 0, "--overwrite")
    assert run("train", tiny, data, "-o", "out", *settings).code == 0
    assert [file.name for file in state.iterdir()] == ["diary.txt"]


def test_overwrite_begins_anew(run: Run, tiny: str, data: Path, here: Path):
    state = here / "colours-adapter.training"
    state.mkdir()
    (state / "state.safetensors").write_bytes(b"anything")
    result = run("train", tiny, data, "--epochs", 1, "--held-out", 0, "--overwrite")
    assert result.code == 0, result.err
    assert read_adapter(here / "colours-adapter").spec.rank == 16
    assert not state.exists()
    assert result.out == ""  # nothing was held out, so nothing is scored


def test_data_of_its_own_is_held_out(
    run: Run, tiny: str, data: Path, here: Path, monkeypatch: pytest.MonkeyPatch
):
    (data / "two.csv").write_text(
        "".join((data / "captions.csv").read_text().splitlines(True)[:3])
    )
    seen = {}

    def train(model, data, options, **rest):
        seen.update(rows=len(data.rows), held_out=len(data.held_out), options=options)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_run, "train", train)
    result = run(
        "train", tiny, data / "captions.csv", "--valid", data / "two.csv", "--stage", 2,
        "--batch", 2, "--checkpoint",
    )  # fmt: skip
    assert result.code == 130
    assert (seen["rows"], seen["held_out"]) == (18, 2)
    options = seen["options"]
    assert (options.method, options.lr, options.batch) == ("full", 2e-5, 2)
    assert options.checkpoint and options.projector and options.epochs == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or directory"),
        (["colours", "--rank", "0"], "rank 0: give 1 or more"),
        (["colours", "--plot", "c.gif"], "--plot c.gif: name a .png or .jpg file"),
        (["colours", "--held-out", "0.9"], "share 0.9: give a part from 0 to 0.5"),
        (["colours", "-o", "colours"], "colours: holds 0.png, which is not part of an"),
        (["colours", "--valid", "nowhere"], "nowhere: no such file or directory"),
        (["colours", "--resolution", "100"], "resolution 100: must be a multiple"),
    ],
)
def test_what_cannot_work_is_one_line(
    run: Run, tiny: str, data: Path, here: Path, arguments: list[str], message: str
):
    result = run("train", tiny, *arguments)
    assert result.code == 1
    assert result.err.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in result.err
    assert not (here / "colours-adapter").exists()
