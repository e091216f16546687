"""Measures peak memory and wall time of converting a checkpoint of the 0.5B sizes.

    python -m benchmarks.convert_memory [--q-bits 4|8] [--dtype DTYPE]

Writes random weights of the released 0.5B sizes (LLaVA's names, bfloat16, 1.2 GB) into
a temporary folder and converts them in a new process. The peak is what that process had
resident at most, the interpreter and MLX included; the limit is 2.5 times the
checkpoint's size on disk.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastvlm_mlx.peak_memory import peak_memory

LIMIT = 2.5


def write_checkpoint(folder: Path) -> int:
    """The released sizes with random values; returns the bytes of weights."""
    from tests.support import checkpoints
    from tests.support.encoders import Encoder

    encoder = Encoder(
        depths=(2, 12, 24, 4, 2),
        widths=(96, 192, 384, 768, 1536),
        mlp_ratio=4,
        se_dim=192,
    )
    spec = checkpoints.Spec(
        encoder=encoder,
        hidden=896,
        layers=24,
        heads=14,
        kv_heads=2,
        intermediate=4864,
        vocab=151_936,
        dtype="bfloat16",
        image_size=1024,
    )
    checkpoints.write(folder, spec)
    return (folder / "model.safetensors").stat().st_size


def convert(source: Path, out: Path, q_bits: int | None, dtype: str | None) -> None:
    """Runs in the measured process; prints its peak and the conversion's seconds."""
    started = time.perf_counter()
    from fastvlm_mlx.convert import to_mlx

    to_mlx.convert(source, out, q_bits=q_bits, dtype=dtype)
    seconds = time.perf_counter() - started
    peak = peak_memory()
    print(json.dumps({"peak": peak, "seconds": seconds}))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.convert_memory",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--q-bits", type=int)
    parser.add_argument("--dtype")
    parser.add_argument("--in", dest="source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.source:
        convert(arguments.source, arguments.out, arguments.q_bits, arguments.dtype)
        return
    options = []
    for name in ("q_bits", "dtype"):
        if value := getattr(arguments, name):
            options += [f"--{name.replace('_', '-')}", str(value)]
    with tempfile.TemporaryDirectory() as place:
        source, out = Path(place) / "source", Path(place) / "out"
        size = write_checkpoint(source)
        command = [sys.executable, "-m", "benchmarks.convert_memory", *options]
        command += ["--in", str(source), "--out", str(out)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
    result |= {"checkpoint": size, "ratio": result["peak"] / size, "limit": LIMIT}
    print(
        f"checkpoint {size / 1e9:.2f} GB, peak {result['peak'] / 1e9:.2f} GB"
        f" ({result['ratio']:.2f} times, limit {LIMIT}), {result['seconds']:.1f} s"
    )
    print(json.dumps(result))
    sys.exit(result["ratio"] >= LIMIT)


if __name__ == "__main__":
    main()
