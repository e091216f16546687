"""Which package a model gets, and what an encoder does while it is in use.

Core ML itself is played: `attach` and `detach` only note that they were called.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastvlm_mlx import coreml_encoder, fastvlm, model_folder
from fastvlm_mlx.app.encoder import coreai, packages, selection
from fastvlm_mlx.app.encoder.selection import Choice
from fastvlm_mlx.convert import to_coreml
from fastvlm_mlx.errors import OptionError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What was attached, detached, timed, exported and taken from Core AI."""
    found: list[Any] = []

    def noted(name: str) -> Callable[..., Any]:
        return lambda *rest, **options: found.append(
            (name, *rest[1:], *options.items())
        )

    monkeypatch.setattr(coreml_encoder, "attach", noted("attach"))
    monkeypatch.setattr(coreml_encoder, "detach", lambda model: found.append("detach"))
    monkeypatch.setattr(coreai, "use", noted("coreai"))
    monkeypatch.setattr(model_folder, "converted", lambda name: tmp_path / name)
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path / "cache"))
    return found


def model_in(tmp_path: Path, **config: Any) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"1")
    return folder


def test_the_package_inside_a_model_comes_first(tmp_path: Path, calls: list[Any]):
    folder = model_in(tmp_path, coreml_encoder="in.mlpackage")
    assert packages.existing_package("model") is None
    outside = packages._exported(folder)
    outside.mkdir(parents=True)
    assert packages.existing_package("model") == outside
    (folder / "in.mlpackage").write_text("no package is a file")
    assert packages.existing_package("model") == outside
    (folder / "in.mlpackage").unlink()
    (folder / "in.mlpackage").mkdir()
    assert packages.existing_package("model") == folder / "in.mlpackage"
    assert packages.own_package("model") == folder / "in.mlpackage"
    assert calls == []


def test_a_package_in_the_cache_belongs_to_its_weights(tmp_path: Path, calls: Any):
    folder = model_in(tmp_path)
    path = packages._exported(folder)
    assert path.parent == tmp_path / "cache" / "coreml"
    stem, _, digest = path.stem.rpartition("-")
    assert (stem, len(digest), path.suffix) == ("model", 12, ".mlpackage")
    os.utime(folder / "config.json", (1, 1))
    assert packages._exported(folder) == path
    (folder / "more.safetensors").write_bytes(b"2")
    assert packages._exported(folder) != path


def test_a_package_is_exported_once(tmp_path: Path, calls: Any, monkeypatch, capsys):
    model_in(tmp_path)
    loaded: list[Any] = []

    def load(name: str, **options: Any) -> str:
        loaded.append((name, options))
        return "the model"

    def export(model: Any, out: Path):
        assert model == "the model"
        out.mkdir(parents=True)

    monkeypatch.setattr(fastvlm, "load", load)
    monkeypatch.setattr(to_coreml, "export", export)
    first = packages.own_package("model")
    assert packages.own_package("model") == first and first.is_dir()
    assert loaded == [("model", {"dtype": "float32"})]
    err = capsys.readouterr().err
    assert err.count("exporting the encoder of model, once") == 1


def test_what_is_used(tmp_path: Path, calls: Any, monkeypatch):
    monkeypatch.setattr(packages, "own_package", lambda name: Path("own", name))
    model: Any = object()
    packages.use(model, "m", "coreml", None)
    packages.use(model, "m", "coreml", "cpu")
    packages.use(model, "m", str(tmp_path / "x.mlpackage"), "cpu-ne")
    packages.use(model, "m", "coreai", None)
    assert calls == [
        ("attach", Path("own/m"), "all"),
        ("attach", Path("own/m"), "cpu"),
        ("attach", tmp_path / "x.mlpackage", "cpu-ne"),
        ("coreai", "m", "coreai"),
    ]


@pytest.mark.parametrize("name", [*packages.BENCH_UNITS, "mlx", "coreai"])
def test_an_encoder_is_in_use_for_a_while(calls: Any, monkeypatch, name: str):
    monkeypatch.setattr(packages, "own_package", Path)
    attached = {
        "coreml-all": [("attach", Path("m"), "all")],
        "coreml-ane": [("attach", Path("m"), "cpu-ne")],
        "coreml-gpu": [("attach", Path("m"), "cpu-gpu")],
        "coreml-cpu": [("attach", Path("m"), "cpu")],
        "coreai": [("coreai", "m", "coreai")],
        "mlx": [],
    }[name]
    model: Any = object()
    with pytest.raises(KeyError), packages.in_use(model, "m", name):
        assert calls == attached
        raise KeyError  # it is put back all the same
    assert calls == attached + ["detach"] * bool(attached)


def measured(size: int = 64) -> Any:
    return SimpleNamespace(
        config=SimpleNamespace(image_size=size), vision_tower=object()
    )


def test_many_images_unless_one_is_said(calls: Any, monkeypatch, capsys):
    asked: list[Any] = []

    def use_faster(model: Any, package: Path, **options: Any) -> Choice:
        asked.append((package, options))
        return Choice(1.0, 2.0)

    monkeypatch.setattr(packages, "existing_package", Path)
    monkeypatch.setattr(selection, "use_faster", use_faster)
    monkeypatch.setattr(selection, "remembered", lambda package, size: None)
    packages.use_faster(measured(), "m", None)
    packages.use_faster(measured(), "m", 64, once=True)
    packages.use_faster(measured(), "m", 65)
    assert asked == [(Path("m"), {"once": False}), (Path("m"), {"once": True})]
    note = "timing the encoder with MLX and with Core ML, once"
    assert capsys.readouterr().err.count(note) == 2


@pytest.mark.parametrize(
    ("problem", "is_new", "told"), [("odd", True, 1), ("odd", False, 0), ("", True, 0)]
)
def test_a_problem_is_told_once(monkeypatch, calls, capsys, problem, is_new, told):
    choice = Choice(1.0, None, problem=problem, is_new=is_new)
    monkeypatch.setattr(packages, "existing_package", Path)
    monkeypatch.setattr(selection, "use_faster", lambda *_, **__: choice)
    monkeypatch.setattr(selection, "remembered", lambda package, size: choice)
    packages.use_faster(measured(), "m", None)
    err = capsys.readouterr().err
    assert err.count("m cannot be used, so MLX encodes: odd") == told
    assert "timing" not in err and calls == []


def test_a_model_without_an_encoder_of_its_own(calls: Any, monkeypatch):
    only: Any = SimpleNamespace(vision_tower=None)
    monkeypatch.setattr(packages, "existing_package", Path)
    for platform, model in (("linux", only), ("darwin", measured())):
        monkeypatch.setattr("sys.platform", platform)
        packages.use_only(model, "m")
    assert calls == []
    packages.use_only(only, "m")
    assert calls == [("attach", Path("m"))]
    monkeypatch.setattr(packages, "existing_package", lambda name: None)
    packages.use_only(only, "m")
    assert len(calls) == 1

    def refuse(*arguments: Any):
        raise OptionError("its own words")

    monkeypatch.setattr(packages, "existing_package", Path)
    monkeypatch.setattr(coreml_encoder, "attach", refuse)
    with pytest.raises(OptionError, match="^its own words$"):
        packages.use_only(only, "m")


def test_what_cannot_be_measured_here(monkeypatch):
    monkeypatch.setattr("sys.platform", "linux")
    assert packages.unavailable("coreml-cpu") == (
        "needs macOS and an exported Core ML package"
    )
    assert "macOS 27" in (packages.unavailable("coreai") or "")
    monkeypatch.setattr(coreai, "check", lambda encoder, units: None)
    assert packages.unavailable("coreai") is None
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(coreml_encoder, "import_coremltools", lambda: None)
    assert packages.unavailable("coreml-all") is None

    def missing():
        raise OptionError("install it")

    monkeypatch.setattr(coreml_encoder, "import_coremltools", missing)
    assert packages.unavailable("coreml-all") == "install it"
