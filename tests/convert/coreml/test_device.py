"""The macOS-only calls: they exist in coremltools as we call them, and are made in the
right order. A stand-in plays Core ML; nothing here proves what a Mac does."""

import inspect
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from numpy.testing import assert_allclose

from fastvlm_mlx import coreml_encoder, coreml_probe
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.convert.coreml import device, mlpackage
from fastvlm_mlx.convert.coreml.mil_evaluator import evaluate
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.to_coreml import export, write_package
from fastvlm_mlx.coreml_probe import Probe
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.fastvlm import load


@pytest.fixture(scope="module")
def tools():
    pytest.importorskip("coremltools")
    return coreml_encoder.import_coremltools()


def test_the_calls_are_in_the_documented_api(tools):
    from coremltools.models.compute_plan import MLComputePlan

    compiled = tools.models.CompiledMLModel
    positional = list(inspect.signature(compiled).parameters)
    assert positional[:3] == ["path", "compute_units", "function_name"]
    assert "data" in inspect.signature(compiled.predict).parameters
    compile_model = inspect.signature(tools.models.utils.compile_model)
    assert list(compile_model.parameters) == ["model", "destination_path"]
    load = inspect.signature(MLComputePlan.load_from_path)
    assert list(load.parameters) == ["path", "compute_units"]
    assert hasattr(MLComputePlan, "get_compute_device_usage_for_mlprogram_operation")
    for unit in coreml_encoder.COMPUTE_UNITS.values():
        assert hasattr(tools.ComputeUnit, unit)


@pytest.fixture(scope="module")
def package(tools, reference: Path, tmp_path_factory) -> Path:
    model = load(reference / "llava-mini", dtype="float32")
    path = tmp_path_factory.mktemp("macos") / "x.mlpackage"
    options = CoreMLOptions(resolutions=(64, 128))
    write_package(model, path, options, options.sizes(model), lambda _: None)
    return path


@pytest.fixture
def mac(tools, monkeypatch, package: Path) -> list[str]:
    """Plays a Mac: a compiled model is a folder, a prediction the evaluator's."""
    calls: list[str] = []

    def compile_model(model: str, destination_path: str) -> str:
        calls.append("compile")
        Path(destination_path).mkdir()
        return destination_path

    class Compiled:
        def __init__(self, path: str, compute_units, function_name: str | None):
            assert Path(path).suffix == ".mlmodelc" and Path(path).is_dir()
            calls.append(f"load {function_name} {compute_units.name}")
            self.function = mlpackage.read(package).functions[function_name or "main"]

        def predict(self, data: dict) -> dict:
            return evaluate(self.function, data)

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.0", ("", "", ""), "arm64"))
    monkeypatch.setattr(tools.models.utils, "compile_model", compile_model)
    monkeypatch.setattr(tools.models, "CompiledMLModel", Compiled)
    return calls


def test_a_package_takes_the_encoders_place(mac, package: Path, reference: Path):
    model = load(reference / "llava-mini", dtype="float32")
    pixels = np.random.default_rng(0).random((2, 128, 128, 3), np.float32)
    wanted = np.array(model.encode_pixels(pixels))
    coreml_encoder.attach(model, package, "cpu-ne")
    given = model.encode_pixels(pixels)
    assert isinstance(given, mx.array)
    assert_allclose(np.array(given), wanted, atol=0.05)
    small = (pixels[:, :64, :64] * 255).astype(np.uint8)
    floats = model.encode_pixels(small / np.float32(255))
    assert mx.array_equal(model.encode_pixels(small), floats)
    assert mac == ["compile", "load image_128 CPU_AND_NE", "load image_64 CPU_AND_NE"]
    coreml_encoder.attach(model, package)
    assert mac.count("compile") == 1  # kept in the cache
    with pytest.raises(OptionError, match="^--resolution 192: x.mlpackage holds 64, 1"):
        model.encode_pixels(np.zeros((1, 192, 192, 3), np.float32))
    coreml_encoder.detach(model)
    assert model.encoder is None
    assert_allclose(np.array(model.encode_pixels(pixels)), wanted, atol=1e-5)


def test_bench_measures_each_unit(mac, package: Path, reference: Path, monkeypatch):
    model = load(reference / "llava-mini", dtype="float32")
    monkeypatch.setattr(packages, "own_package", lambda name: package)
    assert packages.unavailable("coreml-all") is None
    with packages.in_use(model, "x", "coreml-ane"):
        model.encode_pixels(np.zeros((1, 64, 64, 3), np.float32))
    assert mac[-1] == "load image_64 CPU_AND_NE"
    model.encode_pixels(np.zeros((1, 128, 128, 3), np.float32))  # MLX's again
    assert mac[-1] == "load image_64 CPU_AND_NE"


@pytest.fixture
def plan(mac, monkeypatch) -> None:
    """Core ML says that it places every operation but constants on the engine."""
    operations = ["const", "conv", "gelu"]
    block = SimpleNamespace(block=SimpleNamespace(operations=operations))
    program = SimpleNamespace(functions={"image_64": block, "image_128": block})
    plan = SimpleNamespace(
        model_structure=SimpleNamespace(program=program),
        get_compute_device_usage_for_mlprogram_operation=lambda operation: (
            None
            if operation == "const"
            else SimpleNamespace(preferred_compute_device=MLNeuralEngineComputeDevice())
        ),
    )
    monkeypatch.setattr(
        "coremltools.models.compute_plan.MLComputePlan.load_from_path",
        lambda path, compute_units: plan,
    )


def test_what_the_child_measures(mac, plan, package: Path):
    pixels = np.zeros((1, 64, 64, 3), np.float32)
    found = coreml_probe.run(package, "cpu-ne", pixels, 2)
    assert found.operations == {"NeuralEngine": 2}
    assert found.features.shape == (1, 1, 128)
    assert 0 < found.median_ms < 1e3 * found.load_seconds


def test_before_macos_14_4_there_is_no_plan(mac, package: Path, monkeypatch):
    def refuse(**_: object) -> None:
        raise RuntimeError("MLComputePlan is only available on macOS 14.4+")

    monkeypatch.setattr(
        "coremltools.models.compute_plan.MLComputePlan.load_from_path", refuse
    )
    found = coreml_probe.run(package, "all", np.zeros((1, 64, 64, 3), np.float32), 1)
    assert found.operations == {}


def test_the_childs_report(mac, plan, package: Path, tmp_path: Path, capsys):
    files = [str(tmp_path / name) for name in ("pixels.npy", "features.npy")]
    np.save(files[0], np.zeros((1, 64, 64, 3), np.float32))
    coreml_probe.main([str(package), "all", *files, "1"])
    assert json.loads(capsys.readouterr().out)["operations"] == {"NeuralEngine": 2}
    assert np.load(files[1]).shape == (1, 1, 128)
    with pytest.raises(SystemExit, match="^error: --compute-units tpu: unknown"):
        coreml_probe.main([str(package), "tpu", *files, "1"])
    (tmp_path / "pixels.npy").write_bytes(b"none")
    with pytest.raises(SystemExit, match="^error: "):
        coreml_probe.main([str(package), "all", *files, "1"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", r"Core ML ended the process \(SIGKILL"),
        ("import time; time.sleep(60)", "Core ML was not done after 1 s$"),
        ("import sys; sys.exit('error: no such unit')", ": no such unit$"),
        ("import sys; sys.exit(3)", ": no reason given$"),
    ],
)
def test_a_child_that_does_not_report(code, message, monkeypatch):
    monkeypatch.setattr(coreml_probe, "COMMAND", (sys.executable, "-c", code))
    pixels = np.zeros((1, 64, 64, 3), np.float32)
    seconds = 1 if "sleep" in code else 60
    with pytest.raises(OptionError, match=message) as raised:
        coreml_probe.probe("x.mlpackage", "cpu-ne", pixels, seconds=seconds)
    assert str(raised.value).startswith("x.mlpackage with --compute-units cpu-ne: ")


def test_elsewhere_the_child_says_so(package: Path):
    with pytest.raises(OptionError, match="Core ML runs on macOS only"):
        coreml_probe.probe(package, "all", np.zeros((1, 64, 64, 3), np.float32))


def test_an_export_is_whole_whatever_the_device_says(
    mac, reference: Path, tmp_path: Path, monkeypatch
):
    """One setting ends its process, one drifts; the package is there before both."""
    out = tmp_path / "out.mlpackage"

    def probe(package: Path, units: str, pixels: np.ndarray) -> Probe:
        assert package == out and out.is_dir()
        if units == "cpu-ne":
            raise OptionError("out.mlpackage: Core ML ended the process (SIGKILL)")
        function = mlpackage.read(out).functions["main"]
        images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        features = evaluate(function, {"images": images})["image_features"]
        return Probe(1.0, 2.0, {}, features * (0.5 if units == "cpu" else 1))

    monkeypatch.setattr(device, "probe", probe)
    model = load(reference / "llava-mini", dtype="float32")
    report = export(model, out)
    problems = {v.compute_units: v.problem for v in report.on_device}
    assert list(problems) == list(coreml_encoder.COMPUTE_UNITS)
    assert "SIGKILL" in problems["cpu-ne"] and "dB PSNR is below" in problems["cpu"]
    assert problems["all"] == problems["cpu-gpu"] == ""
    assert "SIGKILL" in str(report.on_device[1])
    with pytest.raises(OptionError, match="out.mlpackage: cpu-ne: .*SIGKILL"):
        device.require_on_device(mlpackage.read(out), report.on_device)


class MLNeuralEngineComputeDevice:
    """Named as coremltools' own."""


def test_elsewhere_one_clear_error(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("sys.platform", "linux")
    for call in (coreml_encoder.CoreMLEncoder, coreml_encoder.compiled):
        with pytest.raises(OptionError, match="^Core ML runs on macOS only, not on"):
            call(tmp_path)
    with pytest.raises(OptionError, match="^--compute-units tpu: unknown; use all, cp"):
        coreml_encoder.CoreMLEncoder(tmp_path, "tpu")
