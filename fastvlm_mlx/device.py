"""The default device, and the dtype of weights that suits it.

Metal and CUDA run bfloat16 and keep quantized layers quantized. The CPU runs
float32 and undoes quantization on load: there `quantized_matmul` is 40 times slower
than a float32 product through a good BLAS.
"""

import mlx.core as mx

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def device_dtype() -> mx.Dtype:
    """The dtype that suits the default device."""
    return mx.float32 if on_cpu() else mx.bfloat16


def on_cpu() -> bool:
    """Whether the default device is the CPU."""
    return mx.default_device().type == mx.cpu


def on_gpu() -> bool:
    """Whether the default device is a GPU, where fusing with `mx.compile` pays."""
    return mx.default_device().type != mx.cpu
