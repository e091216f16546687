"""Reads and writes a flat dict of tensors as a tree of named layers.

stem = TensorReader(tensors, "vision_tower.").child("stem", 0)
stem.read("conv.weight")  # tensors["vision_tower.stem.0.conv.weight"]
"""

import re

import mlx.core as mx

from fastvlm_mlx.convert.fold.reparam import BatchNorm, Conv
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.weights.weight_files import Tensors

_INDEX = re.compile(r"\d{1,9}", re.ASCII)


def _child_prefix(prefix: str, path: tuple[str | int, ...]) -> str:
    return prefix + "".join(f"{name}." for name in path)


class TensorReader:
    """The tensors whose names start with `prefix`.

    A reader and all its children record together which tensors were read, so that a
    tensor that the network has no layer for can be reported.

    Args:
        tensors: all tensors of the network, by full name.
        prefix: "" or a path that ends in a dot.
    """

    def __init__(
        self, tensors: Tensors, prefix: str, names_read: set[str] | None = None
    ):
        self.tensors = tensors
        self.prefix = prefix
        self._names_read = set() if names_read is None else names_read

    def child(self, *path: str | int) -> "TensorReader":
        """The reader one level down for each name or index of `path`."""
        prefix = _child_prefix(self.prefix, path)
        return TensorReader(self.tensors, prefix, self._names_read)

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor `name`, or tensors below it."""
        full_name = f"{self.prefix}{name}"
        return full_name in self.tensors or any(
            key.startswith(full_name + ".") for key in self.tensors
        )

    def unread_names(self) -> list[str]:
        """The full names, sorted, of tensors that no reader of this tree has read."""
        return sorted(self.tensors.keys() - self._names_read)

    def read(self, name: str) -> mx.array:
        """The tensor `name`.

        Raises:
            CheckpointError: there is none.
        """
        full_name = self.prefix + name
        if full_name not in self.tensors:
            raise CheckpointError(
                f"tensor {full_name} is missing; the checkpoint is incomplete"
            )
        self._names_read.add(full_name)
        return self.tensors[full_name]

    def read_optional(self, name: str) -> mx.array | None:
        """The tensor `name`, or None if there is none."""
        return self.read(name) if self.prefix + name in self.tensors else None

    def weight(self, ndim: int) -> mx.array:
        """The tensor `weight`: (out, in) for `ndim` 2, (out, in / groups, k, k) for 4.

        Raises:
            CheckpointError: it is missing or has another shape.
        """
        weight = self.read("weight")
        if weight.ndim != ndim or (
            ndim == 4 and weight.shape[2:] != (weight.shape[-1],) * 2
        ):
            raise CheckpointError(
                f"tensor {self.prefix}weight has shape {weight.shape}, which is not"
                " this layer's; the checkpoint is of another network"
            )
        return weight

    def vector(self, name: str, channels: int) -> mx.array:
        """The tensor `name`, one number per channel, as (channels,).

        Raises:
            CheckpointError: it is missing or has another size.
        """
        vector = self.read(name)
        if vector.size != channels:
            raise CheckpointError(
                f"tensor {self.prefix}{name} has shape {vector.shape} for {channels}"
                " channels; the checkpoint's tensors do not belong together"
            )
        return vector.reshape(channels)

    def conv(self) -> Conv:
        """A convolution, (out, in / groups, k, k), with its bias."""
        weight = self.weight(4)
        return Conv(weight, self.vector("bias", weight.shape[0]))

    def linear(self) -> tuple[mx.array, mx.array | None]:
        """The weight (out, in) of a linear layer, and its bias if it has one."""
        weight, bias = self.weight(2), None
        if f"{self.prefix}bias" in self.tensors:
            bias = self.vector("bias", weight.shape[0])
        return weight, bias

    def batch_norm(self, channels: int) -> BatchNorm:
        """The four vectors of a BatchNorm."""
        return BatchNorm(*(self.vector(f, channels) for f in BatchNorm._fields))

    def indices(self) -> range:
        """The indices 0, 1, ... of the numbered children.

        Raises:
            CheckpointError: the indices have a gap.
        """
        indices = {
            int(head)
            for key in self.tensors
            if key.startswith(self.prefix)
            and _INDEX.fullmatch(head := key[len(self.prefix) :].split(".")[0])
        }
        if indices != set(range(len(indices))):
            raise CheckpointError(
                f"{self.prefix}* has parts {sorted(indices)}, which are not"
                " consecutive; the checkpoint is incomplete"
            )
        return range(len(indices))


class TensorWriter:
    """Stores folded layers under the names of `fastvlm_mlx/model/vision.py`.

    Args:
        tensors: receives the tensors, by full name.
        prefix: "" or a path that ends in a dot.
    """

    def __init__(self, tensors: Tensors, prefix: str):
        self.tensors = tensors
        self.prefix = prefix

    def child(self, *path: str | int) -> "TensorWriter":
        """The writer one level down for each name or index of `path`."""
        return TensorWriter(self.tensors, _child_prefix(self.prefix, path))

    def write(self, name: str, layer: Conv) -> None:
        """Stores `name`.weight and `name`.bias as they are."""
        self.tensors[f"{self.prefix}{name}.weight"] = layer.weight
        self.tensors[f"{self.prefix}{name}.bias"] = layer.bias

    def write_depthwise(self, name: str, conv: Conv) -> None:
        """Stores PyTorch's (out, in, kH, kW) as MLX's (out, kH, kW, in)."""
        self.write(name, Conv(conv.weight.transpose(0, 2, 3, 1), conv.bias))

    def write_pointwise(self, name: str, conv: Conv) -> None:
        """Stores a 1x1 convolution, (out, in, 1, 1), as a linear layer, (out, in).

        Raises:
            CheckpointError: the kernel is larger than 1x1.
        """
        if conv.weight.shape[2:] != (1, 1):
            raise CheckpointError(
                f"{self.prefix}{name} has a kernel of {conv.weight.shape[2:]} where"
                " (1, 1) is needed; the checkpoint is of another network"
            )
        self.write(name, Conv(conv.weight.reshape(conv.weight.shape[:2]), conv.bias))
