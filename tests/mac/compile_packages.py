"""Gives every variant of the package to Apple's compiler: on a Mac with Xcode.

    python -m tests.mac.compile_packages

That is the compiler's verdict on every operation and parameter, as Xcode asks it when
an app is built. Exit code 1 if it refuses one. FastViTHD at 1024 px has random weights.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.encoder import encoder
from fastvlm_mlx import load
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.model.vlm import FastVLMModel
from tests.mac import variants


def compile_package(package: Path) -> str | None:
    """What `coremlcompiler` says against `package`, or None."""
    run = subprocess.run(
        ["xcrun", "coremlcompiler", "compile", package, package.parent],
        capture_output=True,
        text=True,
    )
    return run.stderr or run.stdout if run.returncode else None


@cpu_only()
def main() -> int:
    demo = load("demo", dtype="float32")
    large = FastVLMModel(ModelConfig(vision=VisionConfig(), image_size=1024))
    large.vision_tower = encoder(VisionConfig())
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        cases = [(demo, name) for name in variants.VARIANTS]
        cases += [(large, name) for name in ("float16", "per_head", "palette6")]
        for model, name in cases:
            fault = compile_package(variants.write(model, name, Path(folder)))
            refused += fault is not None
            print(f"{model.config.image_size} px {name}: {fault or 'compiled'}")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
