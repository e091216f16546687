"""The default device, and the dtype of weights that suits it.

Metal and CUDA run bfloat16 and keep quantized layers quantized. The CPU runs
float32 and undoes quantization on load: there `quantized_matmul` is 40 times slower
than a float32 product through a good BLAS.
"""

import os

import mlx.core as mx

from fastvlm_mlx.errors import FastVLMError

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}

_used_by: int | None = None  # the process that used MLX first


def device_dtype() -> mx.Dtype:
    """The dtype that suits the default device."""
    return mx.float32 if on_cpu() else mx.bfloat16


def on_cpu() -> bool:
    """Whether the default device is the CPU."""
    return mx.default_device().type == mx.cpu


def on_gpu() -> bool:
    """Whether the default device is a GPU, where fusing with `mx.compile` pays."""
    return mx.default_device().type != mx.cpu


def check_not_forked():
    """Notes that MLX is in use, and refuses to use it in a fork of such a process.

    MLX's threads do not survive `fork`: the child would wait for them for ever.

    Raises:
        FastVLMError: this process was forked after MLX was used.
    """
    global _used_by
    if _used_by is None:
        _used_by = os.getpid()
    elif _used_by != os.getpid():
        raise FastVLMError(
            f"process {os.getpid()} was forked from {_used_by} after the model was"
            " loaded, and MLX's threads do not survive a fork; start it with"
            ' multiprocessing.get_context("spawn")'
        )
