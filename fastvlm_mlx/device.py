"""What the device wants: the dtype of the weights, and quantized layers or plain ones.

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
    return mx.default_device().type == mx.cpu


def on_gpu() -> bool:
    """Whether MLX computes on a GPU unless told otherwise: small kernels are then
    worth fusing with `mx.compile`."""
    return mx.default_device().type != mx.cpu
