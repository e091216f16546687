"""Core ML packages of the reference checkpoints, every option, against PyTorch."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_map_with_path

from fastvlm_mlx.convert import to_coreml
from fastvlm_mlx.convert.coreml import mlpackage, neural_engine, verify
from fastvlm_mlx.convert.coreml.mil_evaluator import evaluate
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.encoder_reference import Reference, psnr
from fastvlm_mlx.convert.fold.fold_encoder import fold_encoder
from fastvlm_mlx.convert.to_coreml import export, write_package
from fastvlm_mlx.coreml_encoder import import_coremltools
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.fastvlm import FastVLM, load
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.vision_config import VisionConfig
from tests.support.encoders import MCI, Encoder, build, in_timm_names, to_mlx
from tests.support.paths import ROOT


@pytest.fixture(scope="module", autouse=True)
def coremltools():
    pytest.importorskip("coremltools")
    return import_coremltools()


@pytest.fixture(scope="module")
def golden(reference: Path):
    return np.load(reference / "llava-mini" / "golden.npz")


@pytest.fixture(scope="module")
def package(model: FastVLM, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("coreml") / "fastvithd.mlpackage"
    export(model, out)
    return out


def written(model: FastVLM, path: Path, options: CoreMLOptions) -> mlpackage.Package:
    assert (
        write_package(model, path, options, options.sizes(model), lambda _: None) == []
    )
    return mlpackage.read(path)


F16, EIGHT_BIT, SIX_BIT = 45, 30, 25


def slow(*values: object):
    """A case whose parts others have too, each for itself."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("options", "least"),
    [
        slow(CoreMLOptions(precision="float32"), 100),
        (CoreMLOptions(precision="float32", attention="per-head"), 100),
        (CoreMLOptions(), F16),
        slow(CoreMLOptions(attention="per-head"), F16),
        (CoreMLOptions(attention="per-head", query_chunk=7), F16),
        (CoreMLOptions(norm_prescale=1), F16),
        (CoreMLOptions(image_input=True), F16),
        (CoreMLOptions(projector=True), F16),
        slow(CoreMLOptions(compression="int8"), EIGHT_BIT),
        (CoreMLOptions(compression="int8-block"), EIGHT_BIT),
        slow(CoreMLOptions(compression="palette8"), EIGHT_BIT),
        (CoreMLOptions(compression="palette6"), SIX_BIT),
    ],
    ids=str,
)
def test_every_option_agrees_with_pytorch(
    options: CoreMLOptions, least: float, model: FastVLM, golden, tmp_path: Path
):
    found = written(model, tmp_path / "x.mlpackage", options)
    function = found.functions["main"]
    output = "image_embeddings" if options.projector else "image_features"
    assert function.outputs == [output]
    assert found.image_input == options.image_input
    image = golden["image"] * (255 if options.image_input else 1)
    wanted = golden["embeds" if options.projector else "features"]
    for mode in ("typed", "strict"):
        given = evaluate(function, {"images": image}, mode=mode)[output]
        assert given.shape == wanted.shape
        assert psnr(wanted, given) >= least, mode


@pytest.mark.parametrize("layout", [slow("hf-mini"), "llava-mini-train"])
def test_other_checkpoints_agree(layout: str, reference: Path, tmp_path: Path):
    loaded = load(reference / layout, dtype="float32")
    data = np.load(reference / layout / "golden.npz")
    for precision, least in (("float32", 100), ("float16", F16)):
        path = tmp_path / f"{precision}.mlpackage"
        found = written(loaded, path, CoreMLOptions(precision=precision))
        given = evaluate(found.functions["main"], {"images": data["image"]})
        assert psnr(data["features"], given["image_features"]) >= least


def test_the_package_is_what_apples_app_expects(package: Path):
    spec = mlpackage.read_spec(package)
    (images,), (features,) = spec.description.input, spec.description.output
    assert (images.name, features.name) == ("images", "image_features")
    assert list(images.type.multiArrayType.shape) == [1, 3, 256, 256]
    assert list(features.type.multiArrayType.shape) == [1, 16, 128]
    for feature in (images, features):  # Float32, as the app's MLMultiArray
        assert feature.type.multiArrayType.dataType == 65568
        assert feature.shortDescription
    metadata = spec.description.metadata
    assert metadata.author.startswith("Converted by fastvlm-mlx")
    assert "research only" in metadata.license and metadata.versionString
    user = dict(metadata.userDefined)
    assert (user["source"], user["fit"]) == ("llava-mini", "pad")
    assert user["preprocessing"].startswith("pad to a square, bicubic")
    for path in package.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)


def test_the_program_suits_the_neural_engine(package: Path):
    function = mlpackage.read(package).functions["main"]
    types = [operation.type for operation in function.computing()]
    assert types.count("transpose") == 1 and types.count("cast") == 2
    assert types[0] == "cast" and types[-1] == "cast"
    assert not [f for f in neural_engine.check(function) if f.leaves]


def test_what_leaves_the_neural_engine_is_named(model: FastVLM, tmp_path: Path):
    found = written(model, tmp_path / "x.mlpackage", CoreMLOptions(precision="float32"))
    (first, *_) = neural_engine.check(found.functions["main"])
    assert re.fullmatch(
        r"\d+ operations may leave the Neural Engine: float32 arithmetic"
        r" \(first stem_conv\)",
        str(first),
    )


def test_resolutions_share_their_weights(model: FastVLM, package: Path, tmp_path: Path):
    out = tmp_path / "x.mlpackage"
    options = CoreMLOptions(resolutions=(64, 256), compression="int8")
    report = export(model, out, options)
    single = written(model, tmp_path / "y.mlpackage", CoreMLOptions(compression="int8"))
    blob = "Data/com.apple.CoreML/weights/weight.bin"
    sizes = [(path / blob).stat().st_size for path in (out, single.path)]
    assert sizes[0] < 1.05 * sizes[1]
    found = mlpackage.read(out)
    assert set(found.functions) == {"image_64", "image_256"}
    assert found.default_function == "image_256"  # the model's own
    assert {v.resolution for v in report.verdicts} == {64, 256}
    assert found.metadata["source"] == "llava-mini"
    spec = mlpackage.read_spec(out)
    assert all(f.input[0].shortDescription for f in spec.description.functions)


@pytest.mark.parametrize(
    ("encoder", "kind", "stages"),
    [
        pytest.param(MCI, None, (), marks=pytest.mark.slow),
        (Encoder(pooled=(1, 2)), "dwconv", (1, 2)),
        pytest.param(Encoder(), "avgpool", (0, 3), marks=pytest.mark.slow),
    ],
)
def test_relatives_export_too(tmp_path: Path, encoder, kind, stages):
    tensors = {
        name: array
        for name, array in in_timm_names(build(encoder), encoder).items()
        if not name.endswith("num_batches_tracked")
    }
    tensors = to_mlx(tensors, "vision_tower.")
    folded, vision = fold_encoder(tensors, kind, stages)
    loaded = FastVLM(ModelConfig(vision=vision, image_size=128))
    loaded.load_weights(list(folded.items()))
    out = tmp_path / f"{kind}.mlpackage"
    report = export(loaded, out, CoreMLOptions(precision="float32"))
    assert report.verdicts[0].psnr > 100
    report = export(loaded, out, overwrite=True, strict=True)
    assert report.verdicts[0].psnr > F16


def test_drift_is_not_written(model: FastVLM, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(verify, "REQUIRED_PSNR", 200.0)
    out = tmp_path / "x.mlpackage"
    message = (
        rf"^{re.escape(str(out))}: \d\d\.\d dB PSNR at 256 px is below 200 dB;"
        " nothing was written; use"
    )
    with pytest.raises(OptionError, match=message):
        export(model, out)
    assert not list(tmp_path.iterdir())


def test_weights_beyond_float16_fail_with_the_reason(tmp_path: Path):
    vision = VisionConfig(
        depths=(1, 1, 1, 1, 1),
        embed_dims=(4, 8, 16, 32, 64),
        mlp_dims=(8, 16, 32, 64, 128),
        out_dim=128,
        out_se_dim=8,
    )
    loaded = FastVLM(ModelConfig(vision=vision, image_size=64))
    loaded.update(tree_map_with_path(lambda _, a: a + 1e5, loaded.parameters()))
    with pytest.raises(OptionError, match="nan dB PSNR at 64 px is below 35 dB"):
        export(loaded, tmp_path / "x.mlpackage")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(reference: Path, tmp_path: Path):
    out = tmp_path / "x.mlpackage"
    code = """
        import sys, time
        from fastvlm_mlx import load
        from fastvlm_mlx.convert.to_coreml import export
        def say(line):
            print(line, flush=True)
            if line.startswith("comparing"):
                time.sleep(60)
        export(load(sys.argv[1]), sys.argv[2], notify=say)
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
        if line.startswith("comparing"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode
    assert not list(tmp_path.iterdir())


def test_a_package_on_disk_is_judged_again(package: Path, model: FastVLM, reference):
    verdicts = verify.judge(mlpackage.read(package), Reference(model))
    assert verdicts[0].passed
    assert re.fullmatch(
        r"main 256 px: \d\d\.\d dB PSNR, 98 operations, largest value [\d.]+ \(\w+\)",
        str(verdicts[0]),
    )
    other = load(reference / "hf-mini", dtype="float32")
    verdicts = verify.judge(mlpackage.read(package), Reference(other))
    assert not verdicts[0].passed
    with pytest.raises(OptionError, match="of another model$"):
        verify.require(verdicts, str(package), "it is of another model")


def test_ranges_that_float16_cannot_hold_are_named(model: FastVLM, package: Path):
    loud = load(model.tokenizer.folder, dtype="float32")
    assert loud.vision_tower is not None
    proj = loud.vision_tower.stages[3].blocks[0].mlp.fc2
    proj.weight = 1e3 * proj.weight
    found = written(loud, package.parent / "loud.mlpackage", CoreMLOptions())
    (verdict,) = verify.judge(found, Reference(loud))
    assert any("adds up squares to" in line for line in verdict.warnings)


def test_damaged_packages_give_one_line(package: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match="not a Core ML package; give an .mlpac"):
        mlpackage.read(tmp_path)
    broken = tmp_path / "broken.mlpackage"
    shutil.copytree(package, broken)
    mlpackage.spec_file(broken).write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"can read \(.*\); export it again$"):
        mlpackage.read(broken)
    shutil.copyfile(mlpackage.spec_file(package), mlpackage.spec_file(broken))
    blob = broken / "Data/com.apple.CoreML/weights/weight.bin"
    blob.write_bytes(blob.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"can read \(.*\); export it again$"):
        mlpackage.read(broken)
    assert to_coreml.function_name(512) == "image_512"
