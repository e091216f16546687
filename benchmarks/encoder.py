"""Compares the speed of our encoder with the plain MLX formulation of it.

    python -m benchmarks.encoder --resolution 512 --rounds 3

The plain formulation is `mx.conv2d`, `nn.gelu`, `nn.Linear` and a skip added at the
end, with the same BLAS and the same folded, random weights in float32 (speed does not
depend on their values). A time is of one encode of one image, including `mx.eval`,
after one warm-up each. Both run in one process and take turns, so that other work on
the machine affects both; CPU seconds (all threads) vary less than wall time. The last
line of stdout is one JSON object.

`--graph` counts the primitives that one encode gives to MLX's scheduler on a GPU in
bfloat16, and how many of them compute (the others are views of an array).
"""

import argparse
import json
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from fastvlm_mlx import device
from fastvlm_mlx.cpu import kernels, openblas
from fastvlm_mlx.model import ops
from fastvlm_mlx.model.ffn_biases import fold_ffn_biases
from fastvlm_mlx.model.vision import FastViTHD
from fastvlm_mlx.model.vision_config import VisionConfig

VIEWS = {
    "Broadcast",
    "ExpandDims",
    "Flatten",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unflatten",
}


def encoder(config: VisionConfig, seed: int = 0) -> FastViTHD:
    """An encoder with random weights that keep activations of order 1."""
    model = FastViTHD(config)
    mx.random.seed(seed)

    def random(value: mx.array) -> mx.array:
        scale = 0.1 if value.ndim == 1 else 0.7 * value[0].size ** -0.5
        return scale * mx.random.normal(value.shape)

    model.update(tree_map(random, model.parameters()))
    mx.eval(model.parameters())
    return model


def _depthwise(x: mx.array, conv: Any, *, stride=1, activate=False) -> mx.array:
    pad, groups = conv.weight.shape[1] // 2, x.shape[-1]
    y = mx.conv2d(x, conv.weight, stride, pad, groups=groups) + conv.bias
    return nn.gelu(y) if activate else y


def _linear(x: mx.array, layer: Any, *, activate=False) -> mx.array:
    return nn.gelu(layer(x)) if activate else layer(x)


def _conv_ffn(x: mx.array, conv: Any, fc1: Any, fc2: Any) -> mx.array:
    return x + fc2(nn.gelu(fc1(_depthwise(x, conv))))


@contextmanager
def plain() -> Iterator[None]:
    """Inside the block the encoder runs the plain MLX formulation."""
    forms = {"depthwise": _depthwise, "linear": _linear, "conv_ffn": _conv_ffn}
    with patch.multiple(ops, gelu=nn.gelu, **forms), without_cpu_kernels():
        yield


@contextmanager
def without_cpu_kernels() -> Iterator[None]:
    with patch.object(kernels, "usable", lambda *arrays: False):
        yield


@contextmanager
def gpu_form() -> Iterator[None]:
    """Inside the block the encoder runs as it does on a GPU, on any device."""
    with ExitStack() as stack:
        stack.enter_context(without_cpu_kernels())
        stack.enter_context(patch.object(device, "on_gpu", lambda: True))
        yield


def primitives(output: mx.array) -> Counter[str]:
    """The primitives in the graph of a lazy array, by name."""
    with tempfile.NamedTemporaryFile("r", suffix=".dot") as file:
        mx.export_to_dot(file.name, output)
        names = re.findall(r'label ="([^"]+)", shape=rectangle', file.read())
    return Counter(names)


def graph(config: VisionConfig, resolution: int) -> dict[str, int]:
    """Counts of one encode's graph: all `primitives`, and those that `compute`."""
    model = FastViTHD(config)
    model.set_dtype(mx.bfloat16)
    fold_ffn_biases(model)
    mx.eval(model.parameters())
    pixels = mx.zeros((1, resolution, resolution, 3), dtype=mx.bfloat16)
    mx.eval(pixels)
    with gpu_form():
        names = primitives(model(pixels))
    views = sum(names[view] for view in VIEWS)
    return {"primitives": names.total(), "compute": names.total() - views}


def timed(model: FastViTHD, pixels: mx.array) -> tuple[float, float]:
    """Seconds by the clock and of CPU for one encode."""
    clock, used = time.perf_counter(), time.process_time()
    mx.eval(model(pixels))
    return time.perf_counter() - clock, time.process_time() - used


def measure(config: VisionConfig, resolution: int, rounds: int) -> dict[str, Any]:
    """Medians of `rounds` encodes of each form, in turn, and their ratios."""
    model = encoder(config)
    pixels = mx.random.uniform(shape=(1, resolution, resolution, 3))
    mx.eval(pixels)
    ours, other = [], []
    for _ in range(rounds + 1):
        ours.append(timed(model, pixels))
        with plain():
            other.append(timed(model, pixels))
    out: dict[str, Any] = {"resolution": resolution, "rounds": rounds}
    for index, unit in enumerate(("seconds", "cpu_seconds")):
        pair = [statistics.median(t[index] for t in form[1:]) for form in (ours, other)]
        out[unit] = {"ours": pair[0], "plain": pair[1], "ratio": pair[0] / pair[1]}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encoder",
        description=(__doc__ or "").splitlines()[0],
    )
    parser.add_argument("--resolution", type=int, default=512, help="pixels a side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--graph", action="store_true", help="count primitives")
    args = parser.parse_args()
    openblas.bind()
    if args.graph:
        result: dict[str, Any] = graph(VisionConfig(), args.resolution)
        print(f"{result['primitives']} primitives, {result['compute']} compute")
    else:
        result = measure(VisionConfig(), args.resolution, args.rounds)
        print(f"{args.resolution} px, {openblas.library_name()}, MLX {version('mlx')}")
        for unit in ("seconds", "cpu_seconds"):
            row = result[unit]
            print(
                f"{unit:12} ours {row['ours']:.2f}  plain {row['plain']:.2f}"
                f"  ratio {row['ratio']:.3f}"
            )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
