"""Measures time, memory and agreement of writing a full-size encoder for Core AI.

    python -m benchmarks.coreai_export [--resolutions 512,1024] [--compress int8]

The weights are random, seeded and scaled so that activations stay of order 1. The time
includes the comparison on an image, in Apple's runtime. Peak memory is what the
process had resident at most. The last line of stdout is one JSON object.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from benchmarks.coreml_export import random_model
from fastvlm_mlx.convert.coreai import asset, programs, verify
from fastvlm_mlx.convert.coreai.options import CoreAIOptions
from fastvlm_mlx.convert.encoder_reference import Reference, default_images
from fastvlm_mlx.device import cpu_only
from fastvlm_mlx.peak_memory import peak_memory


@cpu_only()
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coreai_export",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--resolutions", default="1024")
    parser.add_argument("--precision", default="float16")
    parser.add_argument("--compress", default=None)
    given = parser.parse_args()
    options = CoreAIOptions(
        precision=given.precision,
        resolutions=tuple(int(size) for size in given.resolutions.split(",")),
        projector=False,
        compression=given.compress,
    )
    model = random_model()
    start, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vision.aimodel"
        sizes = options.sizes(model.config)
        program, _ = programs.vision_program(model, options, sizes)
        values = asset.values_of(options, "benchmark", "random")
        asset.write(program, path, "a benchmark", values)
        del program
        written, written_cpu = time.perf_counter(), time.process_time()
        stored = asset.read(path)
        verdicts = verify.judge(stored, Reference(model, default_images()[:1]))
    peak = peak_memory() or 0
    for verdict in verdicts:
        print(verdict)
    summary = {
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "write_seconds": round(written - start, 1),
        "write_cpu_seconds": round(written_cpu - cpu, 1),
        "peak_gb": round(peak / 1e9, 2),
        "asset_mb": round(stored.bytes / 1e6, 1),
        "psnr_db": {v.what: round(v.psnr, 1) for v in verdicts},
        "call_seconds": {v.what: round(v.seconds, 2) for v in verdicts},
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
