"""Views of a flat dict of tensors below a prefix, to walk a network part by part."""

import re

import mlx.core as mx

from fastvlm_mlx.convert.fold.reparam import BatchNorm, Conv
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.weights.weight_files import Tensors

_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


class TensorReader:
    """The tensors below one prefix; remembers which were taken, to forget none."""

    def __init__(self, tensors: Tensors, prefix: str, taken: set[str] | None = None):
        self.tensors = tensors
        self.prefix = prefix
        self.taken = set() if taken is None else taken

    def __truediv__(self, name: str | int) -> "TensorReader":
        return TensorReader(self.tensors, f"{self.prefix}{name}.", self.taken)

    def __contains__(self, name: str) -> bool:
        start = f"{self.prefix}{name}"
        return start in self.tensors or any(
            key.startswith(start + ".") for key in self.tensors
        )

    def take(self, name: str) -> mx.array:
        """The tensor `name`, or a CheckpointError that names it."""
        key = self.prefix + name
        if key not in self.tensors:
            raise CheckpointError(
                f"tensor {key} is missing; the checkpoint is incomplete"
            )
        self.taken.add(key)
        return self.tensors[key]

    def take_if_present(self, name: str) -> mx.array | None:
        return self.take(name) if self.prefix + name in self.tensors else None

    def weight(self, *ranks: int) -> mx.array:
        """The weight, which must have one of `ranks` dimensions."""
        weight = self.take("weight")
        if weight.ndim not in ranks or (
            weight.ndim == 4 and weight.shape[2:] != (weight.shape[-1],) * 2
        ):
            raise CheckpointError(
                f"tensor {self.prefix}weight has shape {weight.shape}, which is not"
                " this layer's; the checkpoint is of another network"
            )
        return weight

    def vector(self, name: str, length: int) -> mx.array:
        """The tensor `name`, which must hold one number per channel."""
        vector = self.take(name)
        if vector.size != length:
            raise CheckpointError(
                f"tensor {self.prefix}{name} has shape {vector.shape} for {length}"
                " channels; the checkpoint's tensors do not belong together"
            )
        return vector.reshape(length)

    def conv(self) -> Conv:
        """A convolution (out, in, k, k) with its bias."""
        weight = self.weight(4)
        return Conv(weight, self.vector("bias", weight.shape[0]))

    def linear(self) -> tuple[mx.array, mx.array | None]:
        """A linear layer (out, in), and its bias if it has one."""
        weight, bias = self.weight(2), None
        if f"{self.prefix}bias" in self.tensors:
            bias = self.vector("bias", weight.shape[0])
        return weight, bias

    def batch_norm(self, channels: int) -> BatchNorm:
        return BatchNorm(*(self.vector(f, channels) for f in BatchNorm._fields))

    def indices(self) -> range:
        """The numbers 0, 1, ... that parts below this prefix are called by."""
        numbers = {
            int(head)
            for key in self.tensors
            if key.startswith(self.prefix)
            and _NUMBER.fullmatch(head := key[len(self.prefix) :].split(".")[0])
        }
        if numbers != set(range(len(numbers))):
            raise CheckpointError(
                f"{self.prefix}* has parts {sorted(numbers)}, which are not"
                " consecutive; the checkpoint is incomplete"
            )
        return range(len(numbers))


class TensorWriter:
    """Where folded layers are put, in the names of `fastvlm_mlx/model/vision.py`."""

    def __init__(self, tensors: Tensors, prefix: str):
        self.tensors = tensors
        self.prefix = prefix

    def __truediv__(self, name: str | int) -> "TensorWriter":
        return TensorWriter(self.tensors, f"{self.prefix}{name}.")

    def put(self, name: str, layer: Conv) -> None:
        self.tensors[f"{self.prefix}{name}.weight"] = layer.weight
        self.tensors[f"{self.prefix}{name}.bias"] = layer.bias

    def put_depthwise(self, name: str, conv: Conv) -> None:
        """PyTorch's (out, in, kH, kW) becomes MLX's (out, kH, kW, in)."""
        self.put(name, Conv(conv.weight.transpose(0, 2, 3, 1), conv.bias))

    def put_pointwise(self, name: str, conv: Conv) -> None:
        """A 1x1 convolution's (out, in, 1, 1) becomes a linear layer's (out, in)."""
        if conv.weight.shape[2:] != (1, 1):
            raise CheckpointError(
                f"{self.prefix}{name} has a kernel of {conv.weight.shape[2:]} where"
                " (1, 1) is needed; the checkpoint is of another network"
            )
        self.put(name, Conv(conv.weight.reshape(conv.weight.shape[:2]), conv.bias))
