"""MIL operations in NumPy: the table of the evaluator.

Implements the operations of our packages and of those made by Apple's exporter
(batch_norm, linear, pow and others), so that theirs can be verified too. Semantics
follow the MIL ops reference: https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html

A function takes the operation's inputs by name (floats as float32 arrays) and `step`,
which rounds an intermediate result in strict mode. Shapes are (1, C, H, W).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from fastvlm_mlx.convert.coreml import mil_rounding
from fastvlm_mlx.convert.coreml.mlpackage import unpack_bits

Step = Callable[[np.ndarray], np.ndarray]

# Floats of a depthwise convolution's accumulator at a time, to fit the CPU's cache.
BLOCK = 1 << 16


def conv(i: dict[str, Any], step: Step) -> np.ndarray:
    x, weight = i["x"], i["weight"]
    strides = tuple(int(s) for s in i.get("strides", (1, 1)))
    if tuple(i.get("dilations", (1, 1))) != (1, 1):
        raise NotImplementedError("dilated convolutions")
    groups = int(i.get("groups", 1))
    pad = _padding(i, x.shape[2:], weight.shape[2:], strides)
    if weight.shape[2:] == (1, 1) and strides == (1, 1) and groups == 1:
        out = weight[:, :, 0, 0] @ x.reshape(x.shape[1], -1)
        out = out.reshape(1, -1, *x.shape[2:])
    elif groups == x.shape[1]:
        out = _depthwise(np.pad(x, pad), weight, strides)
    elif groups == 1:
        out = _dense(np.pad(x, pad), weight, strides)
    else:
        raise NotImplementedError(f"convolutions in {groups} groups")
    if "bias" in i:
        out = step(out)
        out += i["bias"][:, None, None]
    return out


def _padding(i: dict[str, Any], size, kernel, strides) -> list[tuple[int, int]]:
    kind = str(i.get("pad_type", "valid"))
    if kind == "custom":
        top, bottom, left, right = (int(p) for p in i["pad"])
        return [(0, 0), (0, 0), (top, bottom), (left, right)]
    if kind == "valid":
        return [(0, 0)] * 4
    pads = []
    for n, k, s in zip(size, kernel, strides, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        low = total // 2 if kind == "same" else total - total // 2
        pads.append((low, total - low))
    return [(0, 0), (0, 0), *pads]


def _depthwise(x: np.ndarray, weight: np.ndarray, strides) -> np.ndarray:
    """Convolves (1, C, H, W) with m kernels per channel, (C * m, 1, kH, kW)."""
    channels, kh, kw = x.shape[1], *weight.shape[2:]
    height = (x.shape[2] - kh) // strides[0] + 1
    width = (x.shape[3] - kw) // strides[1] + 1
    many = weight.shape[0] // channels
    kernels = weight.reshape(channels, many, kh, kw)
    out = np.zeros((channels, many, height, width), np.float32)
    count = max(1, BLOCK // (many * height * width))

    def compute(c: int) -> None:
        part, total = x[0, c : c + count], out[c : c + count]
        term = np.empty_like(total)
        for a in range(kh):
            for b in range(kw):
                window = part[
                    :,
                    None,
                    a : a + strides[0] * height : strides[0],
                    b : b + strides[1] * width : strides[1],
                ]
                tap = kernels[c : c + count, :, a, b, None, None]
                # Overflow is an expected result; errstate is set per thread.
                with np.errstate(over="ignore", invalid="ignore"):
                    np.multiply(window, tap, out=term)
                    total += term

    with ThreadPoolExecutor() as pool:  # NumPy releases the GIL
        list(pool.map(compute, range(0, channels, count)))
    return out.reshape(1, -1, height, width)


def _dense(x: np.ndarray, weight: np.ndarray, strides) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(
        x, weight.shape[2:], axis=(2, 3)
    )[:, :, :: strides[0], :: strides[1]]
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)


def batch_norm(i: dict[str, Any], step: Step) -> np.ndarray:
    scale = i.get("gamma", 1) / np.sqrt(i["variance"] + i.get("epsilon", 1e-5))
    shift = i.get("beta", 0) - i["mean"] * scale
    axes = (slice(None),) + (None,) * (i["x"].ndim - 2)
    return step(i["x"] * scale[axes]) + shift[axes]


def layer_norm(i: dict[str, Any], step: Step) -> np.ndarray:
    x, axes = i["x"], tuple(int(a) for a in i["axes"])
    count = np.float32(np.prod([x.shape[a] for a in axes]))
    mean = step(step(x.sum(axes, keepdims=True)) / count)
    x = step(x - mean)
    variance = step(step(step(x * x).sum(axes, keepdims=True)) / count)
    inverse = step(1 / np.sqrt(step(variance + i.get("epsilon", 1e-5))))
    x = x * inverse
    shape = [n if a in axes else 1 for a, n in enumerate(x.shape)]
    if "gamma" in i:
        x = step(x) * i["gamma"].reshape(shape)
    return step(x) + i["beta"].reshape(shape) if "beta" in i else x


def softmax(i: dict[str, Any], step: Step) -> np.ndarray:
    x, axis = i["x"], int(i.get("axis", -1))
    x = step(np.exp(step(x - x.max(axis, keepdims=True))))
    return x / step(x.sum(axis, keepdims=True))


def reduce_mean(i: dict[str, Any], step: Step) -> np.ndarray:
    x = i["x"]
    axes = tuple(int(a) for a in i["axes"]) if "axes" in i else tuple(range(x.ndim))
    count = np.float32(np.prod([x.shape[a] for a in axes]))
    return step(x.sum(axes, keepdims=bool(i.get("keep_dims", False)))) / count


def avg_pool(i: dict[str, Any], step: Step) -> np.ndarray:
    size = tuple(int(k) for k in i["kernel_sizes"])
    strides = tuple(int(s) for s in i.get("strides", size))
    if str(i.get("pad_type", "valid")) != "valid" and any(i.get("pad", (0,))):
        raise NotImplementedError("padded pooling")
    windows = np.lib.stride_tricks.sliding_window_view(i["x"], size, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1]]
    return step(windows.sum((-2, -1), dtype=np.float32)) / np.float32(np.prod(size))


def gelu(i: dict[str, Any], step: Step) -> np.ndarray:
    if str(i.get("mode", "EXACT")) != "EXACT":
        raise NotImplementedError(f"GELU's approximation {i['mode']}")
    return mil_rounding.gelu(i["x"])


def sigmoid(i: dict[str, Any], step: Step) -> np.ndarray:
    return 1 / step(1 + step(np.exp(-i["x"])))


def matmul(i: dict[str, Any], step: Step) -> np.ndarray:
    x, y = i["x"], i["y"]
    x = x.swapaxes(-1, -2) if i.get("transpose_x", False) else x
    y = y.swapaxes(-1, -2) if i.get("transpose_y", False) else y
    return np.matmul(x, y)


def einsum(i: dict[str, Any], step: Step) -> np.ndarray:
    x, y = i["values"]
    if str(i["equation"]) != "nchw,nwhu->nchu":
        raise NotImplementedError(f"einsum {i['equation']}")
    # [n, h, c, w] @ [n, h, w, u]
    out = np.matmul(x.transpose(0, 2, 1, 3), y.transpose(0, 2, 1, 3))
    return out.transpose(0, 2, 1, 3)


def linear(i: dict[str, Any], step: Step) -> np.ndarray:
    out = i["x"] @ i["weight"].T
    return step(out) + i["bias"] if "bias" in i else out


def split(i: dict[str, Any], step: Step) -> list[np.ndarray]:
    axis = int(i["axis"])
    if "split_sizes" in i:
        return np.split(i["x"], np.cumsum(i["split_sizes"])[:-1], axis)
    return np.split(i["x"], int(i["num_splits"]), axis)


def concat(i: dict[str, Any], step: Step) -> np.ndarray:
    return np.concatenate(i["values"], int(i["axis"]))


def constexpr_affine_dequantize(i: dict[str, Any], step: Step) -> np.ndarray:
    data = i["quantized_data"].astype(np.float32)
    shape = [1] * data.ndim
    shape[int(i["axis"])] = -1
    zero = i["zero_point"].astype(np.float32)
    zero = zero.reshape(shape) if zero.ndim else zero
    scale = i["scale"]
    return (data - zero) * (scale.reshape(shape) if scale.ndim else scale)


def constexpr_blockwise_shift_scale(i: dict[str, Any], step: Step) -> np.ndarray:
    data = i["data"].astype(np.float32)
    if "offset" in i:
        data = data - _tiled(i["offset"].astype(np.float32), data.shape)
    return data * _tiled(i["scale"], data.shape)


def constexpr_lut_to_dense(i: dict[str, Any], step: Step) -> np.ndarray:
    table = i["lut"]
    if table.ndim == 1:  # iOS 16: packed indices beside the shape
        bits = int(table.size).bit_length() - 1
        return table[unpack_bits(i["indices"], bits, tuple(i["shape"]))]
    if table.size != table.shape[-2]:
        raise NotImplementedError("palettes per group of channels")
    return table.reshape(-1)[i["indices"]]


def _tiled(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Repeats the entries of `array` to `shape`, each over a block of equal size."""
    for axis, (n, whole) in enumerate(zip(array.shape, shape, strict=True)):
        if n not in (1, whole):
            array = np.repeat(array, whole // n, axis)
    return array


OPERATIONS: dict[str, Callable[[dict[str, Any], Step], Any]] = {
    "add": lambda i, step: i["x"] + i["y"],
    "avg_pool": avg_pool,
    "batch_norm": batch_norm,
    "cast": lambda i, step: i["x"],  # the declared output type rounds it
    "concat": concat,
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
    "conv": conv,
    "einsum": einsum,
    "gelu": gelu,
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "mul": lambda i, step: i["x"] * i["y"],
    "pow": lambda i, step: np.power(i["x"], i["y"]),
    "real_div": lambda i, step: i["x"] / i["y"],
    "reduce_mean": reduce_mean,
    "relu": lambda i, step: np.maximum(i["x"], 0),
    "reshape": lambda i, step: i["x"].reshape([int(n) for n in i["shape"]]),
    "sigmoid": sigmoid,
    "softmax": softmax,
    "split": split,
    "sqrt": lambda i, step: np.sqrt(i["x"]),
    "squeeze": lambda i, step: i["x"].squeeze(tuple(int(a) for a in i["axes"])),
    "sub": lambda i, step: i["x"] - i["y"],
    "transpose": lambda i, step: i["x"].transpose([int(a) for a in i["perm"]]),
}
