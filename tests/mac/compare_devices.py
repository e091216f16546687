"""Compares the demo model's encoder on the GPU with the CPU's float32: on a Mac.

    FASTVLM_DEVICE=gpu python -m tests.mac.compare_devices

Prints the PSNR of float32, float16 and bfloat16; exit code 1 below the least wanted.
"""

import sys

import mlx.core as mx
import numpy as np

from fastvlm_mlx import load
from fastvlm_mlx.convert.encoder_reference import psnr
from fastvlm_mlx.device import cpu_only, default
from tests.support.paths import EXAMPLES

LEAST = {"float32": 80, "float16": 45, "bfloat16": 25}  # dB


def features(dtype: str) -> np.ndarray:
    images = sorted(EXAMPLES.glob("*.png"))
    return np.array(load("demo", dtype=dtype).encode_image(images).astype(mx.float32))


def main() -> int:
    with cpu_only():
        wanted = features("float32")
    short = 0
    for dtype, least in LEAST.items():
        found = psnr(wanted, features(dtype))
        short += not found >= least
        print(f"{default()} {dtype}: {found:.1f} dB PSNR, at least {least} wanted")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
