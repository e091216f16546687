"""`--encoder auto`: both encoders timed once, the faster used, the result kept.

A stand-in plays Core ML: nothing here proves which is faster on a Mac.
"""

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx import coreml_encoder, coreml_probe
from fastvlm_mlx.app.encoder import packages, selection
from fastvlm_mlx.app.encoder.selection import Choice
from fastvlm_mlx.app.info import table
from fastvlm_mlx.coreml_probe import Probe
from fastvlm_mlx.errors import OptionError


class Model(SimpleNamespace):
    """Encodes in `seconds`; Core ML's stand-in takes `package_seconds`."""

    def __init__(self, seconds: float, package_seconds: float):
        super().__init__()
        self.config = SimpleNamespace(image_size=64)
        self.vision_tower = object()
        self.encoder: Any = None
        self.seconds, self.package_seconds = seconds, package_seconds
        Child.seconds = package_seconds
        self.used: list[str] = []

    def encode_pixels(self, pixels: mx.array) -> mx.array:
        assert pixels.shape == (1, 64, 64, 3)
        if self.encoder is not None:
            return self.encoder(pixels)
        self.used.append("mlx")
        time.sleep(self.seconds)
        return mx.zeros(1)


class Child:
    """Plays the process that times Core ML."""

    asked: list[str]
    seconds: float
    load_seconds = 0.0
    fault: OptionError | None
    seen_trying: bool


@pytest.fixture
def package(tmp_path: Path, monkeypatch) -> Path:
    Child.asked, Child.fault, Child.seconds, Child.load_seconds = [], None, 0.0, 0.0

    def probe(package: Path, units: str, pixels: np.ndarray, *, runs: int) -> Probe:
        assert pixels.shape == (1, 64, 64, 3)
        known = selection.remembered(package, 64)  # as another process sees it now
        Child.seen_trying = known is not None and "did not end" in known.problem
        Child.asked.append(f"{units} {runs}")
        if Child.fault is not None:
            raise Child.fault
        return Probe(Child.load_seconds, 1e3 * Child.seconds, {}, np.zeros(1))

    monkeypatch.setattr(coreml_probe, "probe", probe)

    def attach(model: Any, package: Path, units: str = "all") -> Any:
        class Package:
            functions = {64 if package.stem == "x" else 128: None}

            def __call__(self, pixels: mx.array) -> mx.array:
                model.used.append(f"coreml {units}")
                time.sleep(model.package_seconds)
                return mx.zeros(1)

        model.encoder = Package()
        return model.encoder

    monkeypatch.setattr(coreml_encoder, "attach", attach)
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "x.mlpackage"
    (path / "Data").mkdir(parents=True)
    (path / "Data" / "weight.bin").write_bytes(b"1")
    return path


@pytest.mark.parametrize(
    ("mlx_seconds", "package_seconds", "winner"),
    [(0.03, 0.0, "coreml cpu-ne"), (0.0, 0.03, "mlx")],
)
def test_the_faster_is_used_and_remembered(
    package, mlx_seconds, package_seconds, winner
):
    model: Any = Model(mlx_seconds, package_seconds)
    assert selection.remembered(package, 64) is None
    choice = selection.use_faster(model, package)
    assert choice == selection.remembered(package, 64) and choice.is_new
    assert choice.encoder == winner.split()[0]
    assert model.used.count("mlx") == 4 and Child.asked == ["cpu-ne 3"]
    again: Any = Model(mlx_seconds, package_seconds)
    selection.use_faster(again, package)
    assert again.used == [] and len(Child.asked) == 1  # not timed a second time
    for each in (model, again):
        each.encode_pixels(mx.zeros((1, 64, 64, 3)))
        assert each.used[-1] == winner


def test_what_was_measured_holds_for_that_package_and_size_only(package):
    model: Any = Model(0.01, 0.0)
    selection.use_faster(model, package)
    assert selection.remembered(package, 128) is None
    (package / "Data" / "new.bin").write_bytes(b"2")
    assert selection.remembered(package, 64) is None


def test_a_package_that_ends_its_process_is_never_tried_again(package, capsys):
    Child.fault = OptionError("x.mlpackage: Core ML ended the process (SIGKILL)")
    model: Any = Model(0.01, 0.0)
    choice = selection.use_faster(model, package)
    assert Child.seen_trying  # had this process been ended too, the record stood
    assert choice.encoder == "mlx" and "SIGKILL" in choice.problem
    again = selection.use_faster(model, package)
    assert again.problem == choice.problem and not again.is_new
    assert len(Child.asked) == 1 and model.encoder is None


def test_a_try_that_did_not_end_means_mlx(package):
    selection._remember(package, 64, selection._TRYING)
    model: Any = Model(0.01, 0.0)
    assert selection.use_faster(model, package).encoder == "mlx"
    assert model.used == [] and Child.asked == []


def test_one_image_pays_for_loading_the_package():
    choice = Choice(300.0, 50.0, load=900.0)
    assert choice.faster(once=False) == choice.encoder == "coreml"
    assert choice.faster(once=True) == "mlx"
    assert Choice(300.0, 50.0, load=200.0).faster(once=True) == "coreml"


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ({}, "coreml cpu-ne"),
        ({"once": False}, "coreml cpu-ne"),
        ({"once": True}, "mlx"),
    ],
)
def test_a_process_encodes_many_images_unless_it_says(package, options, used):
    Child.load_seconds = 60.0
    model: Any = Model(0.02, 0.0)
    selection.use_faster(model, package, **options)
    model.encode_pixels(mx.zeros((1, 64, 64, 3)))
    assert model.used[-1] == used


def test_a_spoilt_record_is_measured_anew(package, tmp_path):
    record = tmp_path / "cache" / "encoders.json"
    record.parent.mkdir()
    record.write_text("[")
    model: Any = Model(0.01, 0.0)
    assert selection.use_faster(model, package) is not None
    assert selection.remembered(package, 64) is not None


def test_auto_makes_no_package_and_keeps_to_the_models_resolution(
    package, monkeypatch, capsys
):
    model: Any = Model(0.01, 0.0)
    monkeypatch.setattr(packages, "existing_package", lambda name: None)
    packages.use_faster(model, "x", None)
    monkeypatch.setattr(packages, "existing_package", lambda name: package)
    packages.use_faster(model, "x", 128)
    assert model.used == []
    packages.use_faster(model, "x", 64)
    assert capsys.readouterr().err.count("once") == 1
    packages.use_faster(model, "x", None)
    assert capsys.readouterr().err == ""
    model.encoder = model.vision_tower = None  # nothing to compare with
    packages.use_faster(model, "x", None)
    assert model.encoder is None
    packages.use_only(model, "x")
    assert model.encoder is None  # not on a Mac
    monkeypatch.setattr("sys.platform", "darwin")
    packages.use_only(model, "x")
    model.encode_pixels(mx.zeros((1, 64, 64, 3)))
    assert model.used[-1] == "coreml all"


def test_a_package_that_core_ml_refuses_leaves_mlx(package, monkeypatch, capsys):
    def refuse(*_: Any) -> None:
        raise RuntimeError("Error compiling model")

    monkeypatch.setattr(coreml_encoder, "attach", refuse)
    monkeypatch.setattr(packages, "existing_package", lambda name: package)
    model: Any = Model(0.01, 0.0)
    packages.use_faster(model, "x", None)
    message = capsys.readouterr().err.splitlines()[-1]
    assert "x.mlpackage cannot be used, so MLX encodes" in message
    assert "Error compiling model" in message
    model.encode_pixels(mx.zeros((1, 64, 64, 3)))
    assert model.used[-1] == "mlx"
    model.vision_tower = None
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(OptionError, match="no other encoder; convert it with --enc"):
        packages.use_only(model, "x")


def test_models_in_folders_of_one_name_have_packages_of_their_own(tmp_path):
    found = set()
    for place in "ab":
        folder = tmp_path / place / "model"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        weights = folder / "model.safetensors"
        weights.write_bytes(b"1")
        found.add(packages._exported(folder))
        os.utime(weights, (1, 1))  # converted anew
        found.add(packages._exported(folder))
    assert len(found) == 4


@pytest.mark.parametrize(
    ("vision", "choice", "line"),
    [
        ({}, None, "Core ML, on macOS"),
        ({"depths": [1]}, None, "MLX"),
        ({"depths": [1]}, Choice(3.0, 2.0), "Core ML 2.0 ms (MLX 3.0 ms)"),
        ({"depths": [1]}, Choice(1.0, 2.0), "MLX 1.0 ms (Core ML 2.0 ms)"),
        ({"depths": [1]}, Choice(1.0, None), "MLX 1.0 ms (Core ML not timed)"),
    ],
)
def test_info_says_what_encodes(vision, choice, line):
    facts = choice and {
        "encoder": choice.encoder, "mlx_ms": choice.mlx, "coreml_ms": choice.coreml
    }  # fmt: skip
    assert table._runs_on({"vision": vision, "encoder_choice": facts}) == line


def test_auto_means_mlx_where_there_is_no_core_ml(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    assert not packages.check("auto", None)


def test_auto_asks_for_coremltools_only_where_a_package_is(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(packages, "existing_package", lambda name: None)

    def missing() -> None:
        raise AssertionError("imported")

    monkeypatch.setattr(coreml_encoder, "import_coremltools", missing)
    assert packages.check("auto", None)
    packages.use_faster(Model(0.0, 0.0), "x", None)  # type: ignore[arg-type]


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_what_asks_for_core_ml(platform: str, tmp_path: Path, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(coreml_encoder, "require_macos", lambda: asked.append("mac"))
    assert packages.check("mlx", None) is False
    assert packages.check("auto", None) is (platform == "darwin")
    assert asked == []
    assert packages.check("coreml", None) is True
    assert packages.check("coreml", "cpu") is True
    assert packages.check(str(tmp_path), "all") is True
    assert asked == ["mac"] * 3
    for encoder in ("auto", "mlx"):
        with pytest.raises(OptionError, match="--compute-units cpu: needs --encoder"):
            packages.check(encoder, "cpu")
    for encoder in ("CoreML", str(tmp_path / "none"), ""):
        with pytest.raises(OptionError) as caught:
            packages.check(encoder, None)
        assert str(caught.value) == (
            f"--encoder {encoder or repr('')}: use auto, mlx, coreml, coreai,"
            " an .mlpackage or an .aimodel"
        )
    assert asked == ["mac"] * 3


def test_ties_go_to_mlx():
    assert Choice(1.0, 1.0).encoder == "mlx"
