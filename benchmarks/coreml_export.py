"""Measures time, memory and agreement of exporting a full-size encoder to Core ML.

    python -m benchmarks.coreml_export [--resolutions 512,768,1024,1536]

The weights are random, seeded and scaled so that activations stay of order 1. The time
includes the comparison on an image. Peak memory is what the process had resident
at most. The last line of stdout is one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map_with_path

from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.to_coreml import export
from fastvlm_mlx.fastvlm import FastVLM
from fastvlm_mlx.model.config import ModelConfig
from fastvlm_mlx.model.vision_config import VisionConfig
from fastvlm_mlx.peak_memory import peak_memory


def random_model(seed: int = 0) -> FastVLM:
    """FastViTHD as released, 125 M random weights, no language model."""
    model = FastVLM(ModelConfig(vision=VisionConfig(), source={"name": "random"}))
    key = mx.random.key(seed)

    def draw(_: str, parameter: mx.array) -> mx.array:
        nonlocal key
        key, use = mx.random.split(key)
        if parameter.ndim == 1:
            return 0.02 * mx.random.normal(parameter.shape, key=use)
        inputs = int(np.prod(parameter.shape[1:]))
        return mx.random.normal(parameter.shape, key=use) * inputs**-0.5

    model.update(tree_map_with_path(draw, model.parameters()))
    mx.eval(model.parameters())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coreml_export",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--resolutions", default="1024")
    parser.add_argument("--precision", default="float16")
    parser.add_argument("--compress", default=None)
    parser.add_argument("--attention", default="batched")
    given = parser.parse_args()
    options = CoreMLOptions(
        precision=given.precision,
        resolutions=tuple(int(size) for size in given.resolutions.split(",")),
        compression=given.compress,
        attention=given.attention,
    )
    model = random_model()
    start, cpu = time.perf_counter(), time.process_time()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {line}", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "fastvithd.mlpackage"
        report = export(model, out, options, notify=say)
    peak = peak_memory() or 0
    for verdict in report.verdicts:
        print(verdict)
        for finding in verdict.findings:
            print(f"  {finding}")
    summary = {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_gb": round(peak / 1e9, 2),
        "package_mb": round(report.bytes / 1e6, 1),
        "operations": {v.function: v.operations for v in report.verdicts},
        "psnr_db": {v.function: round(v.psnr, 1) for v in report.verdicts},
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
