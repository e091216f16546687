"""CoreMLOptions: impossible values give one-line errors; the pass criterion."""

import builtins
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastvlm_mlx import coreml_encoder
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.coreml.verify import Verdict
from fastvlm_mlx.convert.to_coreml import export
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.files.installation import pip_install
from fastvlm_mlx.model.config import ModelConfig, ProjectorConfig
from fastvlm_mlx.model.vision_config import VisionConfig

SMALL = VisionConfig(
    depths=(1, 1, 1, 1, 1),
    embed_dims=(4, 8, 16, 32, 64),
    mlp_dims=(8, 16, 32, 64, 128),
    out_dim=128,
    out_se_dim=8,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bfloat16"}, "--precision bfloat16: unknown; use float16,"),
        ({"compression": "int4"}, "--compress int4: unknown; use int8, int8-block,"),
        ({"attention": "flash"}, "--attention flash: unknown; use batched, per-head"),
        (
            {"compression": "int8", "precision": "float32"},
            "--compress int8: is for float16; leave out --precision float32",
        ),
        ({"query_chunk": 512}, "--query-chunk 512: needs --attention per-head"),
        (
            {"query_chunk": 0, "attention": "per-head"},
            "--query-chunk 0: use 1 or more",
        ),
        ({"norm_prescale": 10}, "--norm-prescale 10: use a power of two, or 1"),
        ({"resolutions": (512, 512)}, "--resolution 512,512: name each size once"),
    ],
)
def test_refused(options: dict, message: str):
    with pytest.raises(OptionError, match="^" + re.escape(message)):
        CoreMLOptions(**options)


def model(**parts) -> FastVLM:
    return FastVLM(ModelConfig(**{"vision": SMALL, "image_size": 256, **parts}))


def test_sizes():
    assert CoreMLOptions().sizes(model()) == (256,)
    chosen = CoreMLOptions(resolutions=(128, 512, 256))
    assert chosen.sizes(model()) == (256, 128, 512)  # its own is the default
    for size in (100, 32, 0, -64, 4096):
        message = f"^--resolution {size}: use a multiple of 64 up to 3072$"
        with pytest.raises(OptionError, match=message):
            CoreMLOptions(resolutions=(size,)).sizes(model())


def test_parts_must_be_there(tmp_path):
    with pytest.raises(OptionError, match="^--projector: this checkpoint has none;"):
        CoreMLOptions(projector=True).sizes(model())
    without = FastVLM(ModelConfig(projector=ProjectorConfig("linear", (128, 8))))
    with pytest.raises(CheckpointError, match="has no vision encoder to export;"):
        export(without, tmp_path / "x.mlpackage")
    message = re.escape(f"{tmp_path / 'x'}: a Core ML package is called NAME.mlpackage")
    with pytest.raises(OptionError, match=f"^{message}$"):
        export(model(), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.delitem(sys.modules, "coremltools", raising=False)
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "coremltools":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    message = (
        "Core ML packages need coremltools, for Python 3.11 to 3.13;"
        f" {pip_install('coremltools>=9')}"
    )
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        coreml_encoder.import_coremltools()
    assert sys.modules.get("transformers", ...) is not None  # nothing stays hidden


def verdict(psnr: float, strict_psnr: float | None) -> Verdict:
    return Verdict("main", 256, 98, 35.0, psnr, strict_psnr, (), (), ())


@pytest.mark.parametrize(
    ("psnr", "strict_psnr", "passed"),
    [
        (40.0, None, True),
        (40.0, 36.0, True),
        (40.0, 34.0, False),
        (34.0, 36.0, False),
        (float("nan"), None, False),
        (40.0, float("nan"), False),
    ],
)
def test_both_figures_must_reach_the_limit(psnr, strict_psnr, passed: bool):
    assert verdict(psnr, strict_psnr).passed is passed


def test_coremltools_without_its_native_part_is_one_line(tmp_path: Path):
    """As pip builds it for a Python that has no wheel."""
    (tmp_path / "coremltools").mkdir()
    (tmp_path / "coremltools" / "__init__.py").write_text("__version__ = '9.0'\n")
    run = subprocess.run(
        [sys.executable, "-m", "fastvlm_mlx", "export", "coreml", "demo", "x"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith(
        "error: coremltools 9.0 has no native part for Python 3."
    )
    assert not (tmp_path / "x.mlpackage").exists()
