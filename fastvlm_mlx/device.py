"""The device that MLX computes on, and the dtype of weights that suits it.

The default device is a GPU where MLX has one; the environment variable FASTVLM_DEVICE
(`cpu` or `gpu`) overrides it. Metal and CUDA compute in 16 bits and keep quantized
layers quantized. The CPU computes in float32. On Linux large layers still keep their
bfloat16 or quantized weights (`model/stored_layers.py`); elsewhere quantization is
undone on load: there `quantized_matmul` is 40 times slower than a float32 product
through a good BLAS.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

import mlx.core as mx

from fastvlm_mlx.errors import FastVLMError, OptionError

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
VARIABLE = "FASTVLM_DEVICE"

# The GPUs of M1 and M2 have no bfloat16 instructions: Metal emulates them.
_NO_BFLOAT16 = ("applegpu_g13", "applegpu_g14")

_used_by: int | None = None  # the process that used MLX first


@cache
def _select() -> None:
    name = os.environ.get(VARIABLE, "")
    if name not in ("", "cpu", "gpu"):
        raise OptionError(f"{VARIABLE}={name}: unknown; use cpu or gpu")
    if name == "gpu" and not mx.is_available(mx.gpu):
        raise OptionError(
            f"{VARIABLE}=gpu: this MLX has no GPU; unset it, or install MLX for one"
        )
    if name:
        mx.set_default_device(mx.cpu if name == "cpu" else mx.gpu)


def default() -> mx.Device:
    """MLX's default device, which FASTVLM_DEVICE chooses when this is first called.

    Raises:
        OptionError: FASTVLM_DEVICE names no device of this machine.
    """
    _select()
    return mx.default_device()


def on_cpu() -> bool:
    """Whether the default device is the CPU."""
    return default().type == mx.cpu


def on_gpu() -> bool:
    """Whether the default device is a GPU, where fusing with `mx.compile` pays."""
    return default().type != mx.cpu


def without_bfloat16() -> bool:
    """Whether the default device is a GPU that emulates bfloat16: M1 and M2."""
    info = mx.device_info(default())
    return on_gpu() and str(info.get("architecture", "")).startswith(_NO_BFLOAT16)


def device_dtype(stored: Iterable[mx.array] = ()) -> mx.Dtype:
    """The dtype that suits the default device for weights that are `stored` so.

    float32 on a CPU. On a GPU float16 if it emulates bfloat16; else the 16-bit type
    in which most of the weights are stored, or bfloat16.
    """
    if on_cpu():
        return mx.float32
    if without_bfloat16():
        return mx.float16
    sizes: Counter[mx.Dtype] = Counter()
    for array in stored:
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[array.dtype] += array.nbytes
    largest = max(sizes, key=lambda dtype: sizes[dtype], default=mx.bfloat16)
    return mx.float16 if largest == mx.float16 else mx.bfloat16


@contextmanager
def cpu_only() -> Iterator[None]:
    """Inside the block MLX's default device is the CPU, in all threads.

    For conversions and references. The GPU of an M5 multiplies float32 with 10 bits
    of mantissa (TF32), and macOS stops GPU work that waits for a slow disk.
    """
    previous = default()
    mx.set_default_device(mx.cpu)
    try:
        yield
    finally:
        mx.set_default_device(previous)


def check_not_forked() -> None:
    """Notes that MLX is in use, and refuses to use it in a fork of such a process.

    MLX's threads do not survive `fork`: the child would wait for them for ever.

    Raises:
        FastVLMError: this process was forked after MLX was used.
        OptionError: FASTVLM_DEVICE names no device of this machine.
    """
    global _used_by
    default()
    if _used_by is None:
        _used_by = os.getpid()
    elif _used_by != os.getpid():
        raise FastVLMError(
            f"process {os.getpid()} was forked from {_used_by} after the model was"
            " loaded, and MLX's threads do not survive a fork; start it with"
            ' multiprocessing.get_context("spawn")'
        )
