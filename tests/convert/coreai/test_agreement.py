"""The reference encoders in Apple's Core AI runtime, against PyTorch's goldens."""

from pathlib import Path

import numpy as np
import pytest

from fastvlm_mlx.convert.coreai import asset, programs
from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.convert.coreml import mlpackage
from fastvlm_mlx.convert.coreml.mil_evaluator import evaluate
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.encoder_reference import psnr
from fastvlm_mlx.convert.fold.fold_encoder import fold_encoder
from fastvlm_mlx.convert.to_coreml import write_package
from fastvlm_mlx.coreai_runtime import CoreAIModel
from fastvlm_mlx.fastvlm import FastVLM, load
from fastvlm_mlx.model.config import ModelConfig
from tests.support.coreai import needs_coreai
from tests.support.encoders import MCI, Encoder, build, in_timm_names, to_mlx

pytestmark = needs_coreai

F16, EIGHT_BIT, FOUR_BIT = 45, 35, 18
VALUES = {"converter": "fastvlm-mlx test", "source": "a test"}


def in_core_ai(
    model: FastVLM, folder: Path, options: CoreAIOptions, images: np.ndarray
) -> np.ndarray:
    """What Apple's runtime gives for the function `main` of a new asset."""
    program, warnings = programs.vision_program(
        model, options, options.sizes(model.config)
    )
    assert warnings == []
    path = folder / "vision.aimodel"
    asset.write(program, path, "a test", VALUES)
    with CoreAIModel(asset.read(path).path) as loaded:
        (found,) = loaded.run("main", {"images": images}).values()
    assert found.dtype == options.precision
    return found.astype(np.float32)


@pytest.mark.parametrize("layout", ["llava-mini", "hf-mini", "llava-mini-train"])
def test_the_reference_checkpoints(layout: str, reference: Path, tmp_path: Path):
    model = load(reference / layout, dtype="float32")
    golden = np.load(reference / layout / "golden.npz")
    outputs = {"embeds": True, "features": False}
    for name, projector in outputs.items():
        if layout != "llava-mini" and projector:
            continue
        for precision, least in (("float32", 100), ("float16", F16)):
            options = CoreAIOptions(precision=precision, projector=projector)
            found = in_core_ai(model, tmp_path, options, golden["image"])
            assert psnr(golden[name], found) >= least, options


@pytest.fixture(scope="module")
def plain(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The bytes of the program of one resolution, its weights not compressed."""
    place = tmp_path_factory.mktemp("plain")
    model = load(reference / "llava-mini", dtype="float32")
    in_core_ai(model, place, CoreAIOptions(), np.zeros((1, 3, 256, 256), np.float32))
    return (place / "vision.aimodel" / "main.mlirb").stat().st_size


@pytest.mark.parametrize(
    ("compression", "least", "most_bytes"),
    [("int8", EIGHT_BIT, 0.75), ("int8-block", EIGHT_BIT, 0.75)]
    # Its layers are narrow, so 4 bits cost more than in the released encoder.
    + [("int4-block", FOUR_BIT, 0.6)],
)
def test_compressed_weights(
    compression: str,
    least: float,
    most_bytes: float,
    plain: int,
    reference: Path,
    tmp_path: Path,
):
    model = load(reference / "llava-mini", dtype="float32")
    golden = np.load(reference / "llava-mini" / "golden.npz")
    program = tmp_path / "vision.aimodel" / "main.mlirb"
    options = CoreAIOptions(compression=compression)
    found = in_core_ai(model, tmp_path, options, golden["image"])
    assert psnr(golden["embeds"], found) >= least
    assert program.stat().st_size < most_bytes * plain


def test_resolutions_share_their_weights(plain: int, reference: Path, tmp_path: Path):
    model = load(reference / "llava-mini", dtype="float32")
    images = np.zeros((1, 3, 256, 256), np.float32)
    program = tmp_path / "vision.aimodel" / "main.mlirb"
    in_core_ai(model, tmp_path, CoreAIOptions(resolutions=(128, 256)), images)
    assert program.stat().st_size < 1.2 * plain


def test_relatives(tmp_path: Path):
    images = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    for encoder, kind, stages in (
        (MCI, None, ()),
        (Encoder(pooled=(1, 2)), "dwconv", (1, 2)),
        (Encoder(), "avgpool", (0, 3)),
    ):
        tensors = {
            name: array
            for name, array in in_timm_names(build(encoder), encoder).items()
            if not name.endswith("num_batches_tracked")
        }
        folded, vision = fold_encoder(to_mlx(tensors, "vision_tower."), kind, stages)
        model = FastVLM(ModelConfig(vision=vision, image_size=128))
        model.load_weights(list(folded.items()))
        options = CoreAIOptions(precision="float32", projector=False)
        found = in_core_ai(model, tmp_path, options, images)
        assert model.vision_tower is not None
        expected = model.encode_features(images.transpose(0, 2, 3, 1))
        assert psnr(np.array(expected), found) >= 100, kind


def test_two_judges_agree(reference: Path, tmp_path: Path, capsys):
    """Core ML's program in our NumPy evaluator, and Core AI's in Apple's runtime."""
    pytest.importorskip("coremltools")
    model = load(reference / "llava-mini", dtype="float32")
    image = np.random.default_rng(0).random((1, 3, 128, 128), np.float32)
    for precision, least in (("float32", 100), ("float16", F16)):
        package = tmp_path / f"{precision}.mlpackage"
        options = CoreMLOptions(precision=precision, resolutions=(128,))
        write_package(model, package, options, (128,), lambda line: None)
        function = mlpackage.read(package).functions["main"]
        in_numpy = evaluate(function, {"images": image})["image_features"]
        ours = CoreAIOptions(precision, (128,), projector=False)
        figure = psnr(in_numpy, in_core_ai(model, tmp_path, ours, image))
        with capsys.disabled():
            print(f"\nNumPy's and Apple's evaluation in {precision}: {figure:.1f} dB")
        assert figure >= least
