"""The macOS-only calls: they exist in coremltools as we call them, and are made in the
right order. A stand-in plays Core ML; nothing here proves what a Mac does."""

import inspect
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from numpy.testing import assert_allclose

from fastvlm_mlx import coreml_encoder
from fastvlm_mlx.app.encoder import packages
from fastvlm_mlx.convert.coreml import device, mlpackage
from fastvlm_mlx.convert.coreml.mil_evaluator import evaluate
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.to_coreml import write_package
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
    model.encode_pixels(pixels[:, :64, :64])
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
    assert packages.unavailable() is None
    with packages.in_use(model, "x", "coreml-ane"):
        model.encode_pixels(np.zeros((1, 64, 64, 3), np.float32))
    assert mac[-1] == "load image_64 CPU_AND_NE"
    model.encode_pixels(np.zeros((1, 128, 128, 3), np.float32))  # MLX's again
    assert mac[-1] == "load image_64 CPU_AND_NE"


def test_every_unit_is_measured(mac, package: Path, monkeypatch):
    plan = SimpleNamespace(
        model_structure=SimpleNamespace(
            program=SimpleNamespace(
                functions={
                    "image_64": SimpleNamespace(
                        block=SimpleNamespace(operations=["const", "conv", "gelu"])
                    )
                }
            )
        ),
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
    pixels = np.zeros((1, 64, 64, 3), np.float32)
    reports = device.measure(package, pixels, runs=2)
    assert [report.compute_units for report in reports] == list(
        coreml_encoder.COMPUTE_UNITS
    )
    assert all(report.operations == {"NeuralEngine": 2} for report in reports)
    assert all(report.features.shape == (1, 1, 128) for report in reports)


class MLNeuralEngineComputeDevice:
    """Named as coremltools' own."""


def test_elsewhere_one_clear_error(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("sys.platform", "linux")
    for call in (coreml_encoder.CoreMLEncoder, coreml_encoder.compiled):
        with pytest.raises(OptionError, match="^Core ML runs on macOS only, not on"):
            call(tmp_path)
    with pytest.raises(OptionError, match="^--compute-units tpu: unknown; use all, cp"):
        coreml_encoder.CoreMLEncoder(tmp_path, "tpu")
