"""Reads a stored `.mlpackage`: the program and its weights as plain data.

Verification reads the package back from disk, with a reader of our own for the weights,
so that the stored bytes are verified. A weight file is a 64-byte header, then per
blob a 64-byte record (MILBlob's `StorageFormat.hpp` in coremltools):

    uint32 sentinel 0xDEADBEEF | uint32 type | uint64 bytes | uint64 offset | ...
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastvlm_mlx.convert.coreml.package_errors import package_errors, package_file
from fastvlm_mlx.coreml_encoder import import_coremltools
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.json_file import read_json

SENTINEL = 0xDEADBEEF
MAX_MANIFEST = 1 << 20  # bytes; it names two items
MAX_SPEC = (1 << 31) - 1  # bytes: protobuf's own limit
MAX_WEIGHTS = 1 << 40  # bytes; they are mapped, not read

# MIL.proto's DataType; types narrower than a byte are read as uint8.
DTYPES: dict[int, str] = {
    1: "bool",
    2: "str",
    10: "float16",
    11: "float32",
    21: "int8",
    22: "int16",
    23: "int32",
    24: "int64",
    25: "int4",
    31: "uint8",
    32: "uint16",
    33: "uint32",
    35: "uint4",
    38: "uint6",
}
BITS = {"int4": 4, "uint4": 4, "uint6": 6}


@dataclass(frozen=True)
class Value:
    """Name, dtype and shape of one value; a dimension that is not fixed is None."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Operation:
    """One operation; an input is a list of value names or constants."""

    type: str
    inputs: dict[str, list[str | np.ndarray]]
    outputs: list[Value]

    @property
    def name(self) -> str:
        return self.outputs[0].name


@dataclass(frozen=True)
class Function:
    """One function of a program, its operations in order, constants first."""

    inputs: list[Value]
    operations: list[Operation]
    outputs: list[str]

    def computing(self) -> Iterator[Operation]:
        """The operations that run; constants and `constexpr` operations do not."""
        return (op for op in self.operations if not is_constant(op))


@dataclass(frozen=True)
class Package:
    """A stored ML program."""

    path: Path
    functions: dict[str, Function]
    default_function: str
    metadata: dict[str, str] = field(default_factory=dict)
    image_input: bool = False

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


def is_constant(operation: Operation) -> bool:
    return operation.type == "const" or operation.type.startswith("constexpr_")


def read(path: Path | str) -> Package:
    """Reads the package at `path`; its weights are mapped, not loaded.

    Raises:
        CheckpointError: not an ML program package, or damaged.
        OptionError: coremltools is not installed.
    """
    path = Path(path)
    spec = read_spec(path)
    if spec.WhichOneof("Type") != "mlProgram":
        raise CheckpointError(
            f"{path}: holds no ML program; give an .mlpackage of one (iOS 15 or later)"
        )
    root = path / "Data" / "com.apple.CoreML"
    with package_errors(path):
        functions = {
            name: _function(function, root)
            for name, function in spec.mlProgram.functions.items()
        }
        if not functions:
            raise ValueError("its program has no function")
        described = spec.description.functions or [spec.description]
        inputs = [feature for each in described for feature in each.input]
        return Package(
            path,
            functions,
            spec.description.defaultFunctionName or "main",
            dict(spec.description.metadata.userDefined),
            any(each.type.WhichOneof("Type") == "imageType" for each in inputs),
        )


def spec_file(path: Path) -> Path:
    """The file of the package that holds the program, as its manifest names it.

    Raises:
        CheckpointError: not a package, or its manifest names no model.
    """
    if not (path / "Manifest.json").is_file():
        raise CheckpointError(f"{path}: not a Core ML package; give an .mlpackage")
    with package_errors(path):
        manifest = read_json(package_file(path, "Manifest.json", MAX_MANIFEST))
        try:
            item = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        except (KeyError, TypeError):
            item = None
        if not isinstance(item, str):
            raise CheckpointError(
                f"{path}: its Manifest.json names no model; export or download it again"
            )
        return package_file(path / "Data", item, MAX_SPEC)


def read_spec(path: Path) -> Any:
    """The protobuf message (`Model_pb2.Model`) of the package at `path`.

    Raises:
        CheckpointError: not a package, or damaged.
        OptionError: coremltools is not installed.
    """
    import_coremltools()
    from coremltools.proto import Model_pb2

    spec: Any = Model_pb2.Model()  # pyright: ignore[reportAttributeAccessIssue]
    file = spec_file(path)
    with package_errors(path):
        spec.ParseFromString(file.read_bytes())
    return spec


def _function(function: Any, root: Path) -> Function:
    block = function.block_specializations[function.opset]
    return Function(
        [_value(each) for each in function.inputs],
        [_operation(operation, root) for operation in block.operations],
        list(block.outputs),
    )


def _value(named: Any) -> Value:
    kind = named.type.tensorType
    shape = tuple(
        d.constant.size if d.WhichOneof("dimension") == "constant" else None
        for d in kind.dimensions
    )
    return Value(named.name, DTYPES.get(kind.dataType, f"#{kind.dataType}"), shape)


def _operation(operation: Any, root: Path) -> Operation:
    if not operation.outputs:
        raise ValueError(f"an operation {operation.type!r:.200} has no output")
    inputs: dict[str, list[str | np.ndarray]] = {
        name: [
            each.name
            if each.WhichOneof("binding") == "name"
            else _literal(each.value, root)
            for each in argument.arguments
        ]
        for name, argument in operation.inputs.items()
    }
    # iOS 16's constexpr operations and const carry their data as attributes.
    for name, value in operation.attributes.items():
        if name != "name" and value.type.WhichOneof("type") == "tensorType":
            inputs.setdefault(name, [_literal(value, root)])
    return Operation(operation.type, inputs, [_value(v) for v in operation.outputs])


def _literal(value: Any, root: Path) -> np.ndarray:
    kind = value.type.tensorType
    dtype = DTYPES[kind.dataType]
    shape = tuple(d.constant.size for d in kind.dimensions)
    if value.WhichOneof("value") == "blobFileValue":
        file = value.blobFileValue.fileName.removeprefix("@model_path/")
        return _blob(
            package_file(root, file, MAX_WEIGHTS),
            value.blobFileValue.offset,
            dtype,
            shape,
        )
    tensor = value.immediateValue.tensor
    data = getattr(tensor, tensor.WhichOneof("value")).values
    if isinstance(data, bytes):
        return _unpacked(np.frombuffer(data, np.uint8), dtype, shape)
    return np.array(list(data), dtype).reshape(shape)


def _blob(file: Path, offset: int, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    mapped = np.memmap(file, np.uint8, "r")
    record = mapped[offset : offset + 24].tobytes()
    sentinel, _, size, start = struct.unpack("<IIQQ", record)
    if sentinel != SENTINEL or start + size > len(mapped):
        raise ValueError(f"{file.name}: no weights at byte {offset}")
    return _unpacked(mapped[start : start + size], dtype, shape)


def _unpacked(data: np.ndarray, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes as an array; fields narrower than a byte are packed without gaps."""
    if dtype not in BITS:
        return data.view(dtype).reshape(shape)
    return unpack_bits(data, BITS[dtype], shape)


def unpack_bits(data: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Unsigned fields of `bits` bits, least significant bit first, as uint8."""
    count = math.prod(shape)
    if count * bits > data.size * 8:
        raise ValueError(f"{data.size} bytes for {count} values of {bits} bits")
    flags = np.unpackbits(data, bitorder="little", count=count * bits)
    fields = flags.reshape(count, bits)
    return np.packbits(fields, axis=1, bitorder="little")[:, 0].reshape(shape)
