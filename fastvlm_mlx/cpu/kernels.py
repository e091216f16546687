"""C++ kernels for a Linux CPU: `*.cpp`, compiled with g++ on first use.

MLX's CPU backend is slow, and `mx.compile` there emits plain SSE2. The compiled
library is kept in the cache folder, one per source and processor. Without a compiler,
or for inputs that are not float32, `model/ops.py` uses MLX's own operations.

These functions are not lazy: they evaluate their inputs and return finished arrays,
which have no gradients. `switched_off` keeps them out of what is differentiated.
"""

import ctypes
import hashlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import mlx.core as mx

from fastvlm_mlx import device
from fastvlm_mlx.cpu import bfloat16, mapped_weights, openblas
from fastvlm_mlx.cpu.compiler import compiled, processor
from fastvlm_mlx.cpu.stored_weights import address, scale_bits
from fastvlm_mlx.files.cache_dir import cache_dir

SOURCES = sorted(
    file for file in Path(__file__).parent.iterdir() if file.suffix in (".cpp", ".h")
)
FLAGS = (
    "-std=c++17 -O3 -march=native -shared -fPIC -pthread -fno-math-errno"
    " -fno-trapping-math -fno-signed-zeros -fassociative-math"
).split()


# The kernel sizes that are compiled, and from how many numbers in one array on.
KERNEL_SIZES = (3, 7)
WORTH_COMPILING = 2**22

_off: ContextVar[bool] = ContextVar("kernels switched off", default=False)


@contextmanager
def switched_off() -> Iterator[None]:
    """Inside the block, and in its thread alone, `usable` says no: training needs
    gradients."""
    token = _off.set(True)
    try:
        yield
    finally:
        _off.reset(token)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None without OpenBLAS or a compiler."""
    openblas.bind()
    product = openblas.sgemm_addresses()
    if product is None:
        return None
    path = _path()
    if not compiled(path, SOURCES, FLAGS):
        return None
    try:
        kernels = ctypes.CDLL(str(path))
    except OSError:  # a cache folder from which nothing may be run
        return None
    counts = map(ctypes.c_long, (openblas.cores(), openblas.default_threads()))
    kernels.fv_init(*map(ctypes.c_void_p, product), *counts)
    bfloat16.choose(kernels, path.with_suffix(".bfloat16"))
    return kernels


@cache
def _path() -> Path:
    source = b"".join(file.read_bytes() for file in SOURCES)
    key = hashlib.sha256(source + " ".join(FLAGS).encode() + processor())
    return cache_dir() / "kernels" / f"{key.hexdigest()[:16]}.so"


def prepare(numbers: int) -> None:
    """Starts compiling in a thread where a model of so many weights will need it, so
    that other work is done meanwhile."""
    worth = numbers >= WORTH_COMPILING and sys.platform == "linux" and device.on_cpu()
    if worth and not _path().is_file() and openblas.sgemm_addresses() is not None:
        # It holds no process up that ends early; what it leaves, `staged_file` removes.
        arguments = (_path(), SOURCES, FLAGS)
        threading.Thread(target=compiled, args=arguments, daemon=True).start()


def usable(*arrays: mx.array) -> bool:
    """Whether these functions take `arrays`: float32, on the CPU, kernels at hand.

    The kernels are not compiled for small arrays: that would cost more than it saves.
    """
    return (
        sys.platform == "linux"
        and (arrays[0].size >= WORTH_COMPILING or _path().is_file())
        and at_hand(*arrays)
    )


def at_hand(*arrays: mx.array) -> bool:
    """As `usable`, and compiles the kernels for arrays of any size."""
    return (
        sys.platform == "linux"
        and not _off.get()
        and device.on_cpu()
        and all(array.dtype == mx.float32 for array in arrays)
        and library() is not None
    )


def take_weights(*weights: mx.array) -> bool:
    """Whether `linear` and `conv_ffn` take them: all float32, or all bfloat16."""
    return {weight.dtype for weight in weights} in ({mx.float32}, {mx.bfloat16})


def bfloat16_form() -> str:
    """How products with bfloat16 weights are computed, other than in float32: "native"
    or "emulated"; else ""."""
    found = library() if at_hand() else None
    form = "off" if found is None else bfloat16.form(found)
    return "" if form == "off" else form


def release_memory() -> None:
    """Gives memory that is kept for later back to the system: on a CPU MLX and malloc
    keep the largest maps of an encoder while smaller ones are computed."""
    if device.on_cpu():
        mx.clear_cache()
        if sys.platform == "linux" and _path().is_file() and (found := library()):
            found.fv_release_memory()


def depthwise(
    x: mx.array, weight: mx.array, bias: mx.array, *, stride: int, activate: bool
) -> mx.array:
    """As `ops.depthwise`, for kernels of `KERNEL_SIZES`."""
    B, H, W, C = x.shape
    out_dim, kernel = weight.shape[:2]
    _check("depthwise", out_dim % C == 0 and weight.shape[2:] == (kernel, 1), x, weight)
    out = _output(B, -(-H // stride), -(-W // stride), out_dim)
    sizes = (B, H, W, C, out_dim // C, kernel, stride, activate)
    return _call("fv_depthwise", x, weight, bias, out, *sizes)


def stem(x: mx.array, *weights: mx.array) -> mx.array:
    """As `ops.stem` before its linear layer; weights and biases of both convolutions.

    x: (B, H, W, 3), H and W multiples of 4.
    """
    conv, _, depthwise, _ = weights
    B, H, W, _ = x.shape
    dim = conv.shape[0]
    fits = x.shape[3] == 3 and H % 4 == W % 4 == 0 and conv.shape == (dim, 3, 3, 3)
    _check("stem", fits and depthwise.shape == (dim, 3, 3, 1), x, conv)
    return _call("fv_stem", x, *weights, _output(B, H // 4, W // 4, dim), B, H, W, dim)


def gelu(x: mx.array) -> mx.array:
    """As `ops.gelu`."""
    return _call("fv_gelu", x, _output(*x.shape), x.size)


def linear(
    x: mx.array, weight: mx.array, bias: mx.array, *, activate: bool
) -> mx.array:
    """As `ops.linear`: weight (out_dim, dim), float32 or bfloat16."""
    out_dim, dim = weight.shape
    _check("linear", x.shape[-1] == dim, x, weight)
    out = _output(*x.shape[:-1], out_dim)
    stored = weight.dtype == mx.bfloat16
    function = "fv_encoder_linear_bfloat16" if stored else "fv_linear"
    sizes = (x.size // dim, dim, out_dim, activate)
    return _call(function, x, weight, bias, out, *sizes)


def conv_ffn(x: mx.array, *weights: mx.array) -> mx.array:
    """As `ops.conv_ffn`; weights and biases of the convolution, fc1 and fc2.

    The weights of fc1 and fc2 are float32, or both are bfloat16.
    """
    conv, _, fc1, _, fc2, _ = weights
    C, kernel, hidden_dim = x.shape[-1], conv.shape[1], fc1.shape[0]
    _check("conv_ffn", conv.shape == (C, kernel, kernel, 1), x, conv)
    _check("conv_ffn", fc1.shape == fc2.shape[::-1] == (hidden_dim, C), x, fc1)
    out = _output(*x.shape)
    function = "fv_conv_ffn" + ("_bfloat16" if fc1.dtype == mx.bfloat16 else "")
    return _call(function, x, *weights, out, *x.shape, hidden_dim, kernel)


def linear_bfloat16(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """x @ weight.T + bias; weight (out_dim, dim) in bfloat16, dim a multiple of 64."""
    out_dim, dim = weight.shape
    _check("linear_bfloat16", x.shape[-1] == dim and dim % 64 == 0, x, weight)
    out = _output(*x.shape[:-1], out_dim)
    added = x if bias is None else bias
    sizes = (x.size // dim, dim, out_dim, bias is not None)
    return _call("fv_linear_bfloat16", x, weight, added, out, *sizes)


def linear_quantized(
    x: mx.array,
    weight: mx.array,
    scales: mx.array,
    biases: mx.array,
    bias: mx.array | None,
    *,
    group_size: int,
    bits: int,
) -> mx.array:
    """x @ dequantized.T + bias for 4 or 8 bits; scales and biases are float32, or both
    are bfloat16.

    Shapes:
        weight: (out_dim, dim * bits / 32); scales, biases: (out_dim, dim / group_size)
    """
    out_dim, dim = scales.shape[0], scales.shape[1] * group_size
    fits = bits in (4, 8) and weight.shape == (out_dim, dim * bits // 32)
    fits = fits and x.shape[-1] == dim and dim % 64 == 0
    _check("linear_quantized", fits and biases.shape == scales.shape, x, weight)
    out = _output(*x.shape[:-1], out_dim)
    added = x if bias is None else bias
    sizes = (x.size // dim, dim, out_dim, bias is not None, group_size, bits)
    sizes += (scale_bits(scales),)
    return _call("fv_linear_quantized", x, weight, scales, biases, added, out, *sizes)


def attention(qkv: mx.array, head_dim: int, *, rounded: bool = False) -> mx.array:
    """As `ops.attention`."""
    B, length, dim = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    out = _output(B, length, dim)
    function = "fv_attention" + ("_bfloat16" if rounded and bfloat16_form() else "")
    return _call(function, qkv, out, B, length, dim // head_dim, head_dim)


def causal_attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """Attention of the last L of S positions to all before them, one sequence.

    Shapes:
        q: (1, heads, L, head_dim); k, v: (1, kv_heads, S, head_dim); returns as q
    """
    _, heads, length, head_dim = q.shape
    sizes = (heads, k.shape[1], length, k.shape[2], head_dim)
    return _call("fv_causal_attention", q, k, v, _output(*q.shape), *sizes)


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up, any shape."""
    return _call("fv_swiglu", gate, up, _output(*gate.shape), gate.size)


def _check(function: str, fits: bool, x: mx.array, weight: mx.array) -> None:
    if not fits:  # the kernels would read beyond the arrays
        raise ValueError(
            f"{function}: weight of shape {weight.shape} does not fit x {x.shape}"
        )


def _output(*shape: int) -> mx.array:
    return mx.zeros(shape)


def _call(function: str, *arguments: mx.array | int) -> mx.array:
    """Calls a kernel; the last array among the arguments is its output."""
    kernels = library()
    assert kernels is not None
    arrays = [_whole(a) for a in arguments if isinstance(a, mx.array)]
    mx.eval([a for a in arrays if mapped_weights.address(a) is None])
    sizes = [ctypes.c_long(a) for a in arguments if not isinstance(a, mx.array)]
    # Views share an array's memory, and writing to one is allowed: "Conversion to
    # NumPy and Other Frameworks" in MLX's documentation.
    pointers = [ctypes.c_void_p(address(array)) for array in arrays]
    getattr(kernels, function)(*pointers, *sizes)
    return arrays[-1]


def _whole(array: mx.array) -> mx.array:
    return array if mapped_weights.address(array) else mx.contiguous(array)
