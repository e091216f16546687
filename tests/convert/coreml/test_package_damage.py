"""Packages that are damaged or made to do harm: one line, whatever is wrong in them."""

import json
import os
import random
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastvlm_mlx.convert.coreml import mlpackage, verify
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.encoder_reference import Reference
from fastvlm_mlx.convert.to_coreml import write_package
from fastvlm_mlx.coreml_encoder import import_coremltools
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.fastvlm import FastVLM

END = "; export it again"


@pytest.fixture(scope="module", autouse=True)
def coremltools():
    pytest.importorskip("coremltools")
    return import_coremltools()


@pytest.fixture(scope="module")
def checked(model: FastVLM) -> Reference:
    return Reference(model, [Image.new("RGB", (64, 64), "red")])


@pytest.fixture(scope="module")
def sound(model: FastVLM, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "small.mlpackage"
    options = CoreMLOptions(resolutions=(64,), compression="palette6")
    write_package(model, path, options, (64,), lambda _: None)
    return path


@pytest.fixture
def package(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "small.mlpackage"))


def refusal(package: Path, checked: Reference) -> str:
    """The one line that reading and judging `package` ends in."""
    with pytest.raises(CheckpointError) as caught:
        verify.judge(mlpackage.read(package), checked)
    line = str(caught.value)
    assert line.startswith(f"{package}: ") and line.isprintable() and len(line) < 500
    return line.removeprefix(f"{package}: ")


def cannot(what: str) -> str:
    return f"not a Core ML package this program can read ({what}){END}"


def name_in_manifest(package: Path, path: Any) -> None:
    file = package / "Manifest.json"
    manifest = json.loads(file.read_text())
    manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = path
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "name", ["/dev/zero", "/etc/passwd", "../Manifest.json", "a/../../x", "", "a\0b"]
)
def test_a_manifest_names_only_files_of_the_package(package, checked, name):
    name_in_manifest(package, name)
    assert refusal(package, checked) == cannot(
        "".join(c if c.isprintable() else "?" for c in f"{name!r}")
        + " is not the name of a file in it"
    )


@pytest.mark.parametrize("name", [1, None, [], {}, True])
def test_a_manifest_that_names_none(package, checked, name):
    name_in_manifest(package, name)
    line = refusal(package, checked)
    assert line == "its Manifest.json names no model; export or download it again"


def test_only_regular_files_are_read(package: Path, checked):
    os.mkfifo(package / "Data" / "pipe")
    name_in_manifest(package, "pipe")
    assert refusal(package, checked) == cannot("'pipe' is not a regular file")
    (package / "Data" / "link").symlink_to("/dev/zero")
    name_in_manifest(package, "link")
    assert refusal(package, checked) == cannot("'link' is not a regular file")
    name_in_manifest(package, "com.apple.CoreML")
    assert "is not a regular file" in refusal(package, checked)
    name_in_manifest(package, "none")
    assert refusal(package, checked) == cannot("no such file or directory")
    (package / "Manifest.json").unlink()
    os.mkfifo(package / "Manifest.json")
    assert refusal(package, checked).startswith("not a Core ML package; give")


def test_links_to_the_files_are_followed(package: Path, checked):
    """As the Hub's cache has them."""
    spec = mlpackage.spec_file(package)
    spec.rename(package.parent / "blob")
    spec.symlink_to(package.parent / "blob")
    (verdict,) = verify.judge(mlpackage.read(package), checked)
    assert verdict.resolution == 64


def test_a_manifest_of_gigabytes_is_not_read(package: Path, checked):
    with open(package / "Manifest.json", "ab") as file:
        file.truncate(1 << 33)
    assert refusal(package, checked) == cannot(
        "'Manifest.json' has 8589934592 bytes, 1048576 at most"
    )


def change(package: Path, edit: Any) -> None:
    """`edit` the protobuf message of `package`."""
    spec = mlpackage.read_spec(package)
    edit(spec, next(iter(spec.mlProgram.functions.values())))
    mlpackage.spec_file(package).write_bytes(spec.SerializeToString())


def block(function: Any) -> Any:
    return function.block_specializations[function.opset]


def clear_functions(spec: Any, _: Any) -> None:
    spec.mlProgram.functions.clear()


def drop_input(_: Any, function: Any) -> None:
    del function.inputs[:]


def drop_outputs(_: Any, function: Any) -> None:
    del block(function).outputs[:]


def drop_operation(_: Any, function: Any) -> None:
    del block(function).operations[3]


def drop_operation_output(_: Any, function: Any) -> None:
    del block(function).operations[-1].outputs[:]


def drop_arguments(_: Any, function: Any) -> None:
    block(function).operations[-1].inputs.clear()


def other_opset(_: Any, function: Any) -> None:
    function.opset = "CoreML99"


def other_output(_: Any, function: Any) -> None:
    block(function).outputs[0] = "nowhere"


def first_blob(function: Any) -> Any:
    for operation in block(function).operations:
        for value in operation.attributes.values():
            if value.WhichOneof("value") == "blobFileValue":
                return value
    raise AssertionError("no blob")


def other_blob_type(_: Any, function: Any) -> None:
    first_blob(function).type.tensorType.dataType = 77


def other_blob_file(_: Any, function: Any) -> None:
    first_blob(function).blobFileValue.fileName = "@model_path/../../../../etc/passwd"


def blob_of_a_device(_: Any, function: Any) -> None:
    first_blob(function).blobFileValue.fileName = "/dev/zero"


def huge_blob_shape(_: Any, function: Any) -> None:
    for dimension in first_blob(function).type.tensorType.dimensions:
        dimension.constant.size = 1 << 40


def blob_beyond_the_end(_: Any, function: Any) -> None:
    first_blob(function).blobFileValue.offset = (1 << 64) - 64


def blob_elsewhere(_: Any, function: Any) -> None:
    first_blob(function).blobFileValue.offset += 1


@pytest.mark.parametrize(
    "edit",
    [
        clear_functions,
        drop_input,
        drop_outputs,
        drop_operation,
        drop_operation_output,
        drop_arguments,
        other_opset,
        other_output,
        other_blob_type,
        other_blob_file,
        blob_of_a_device,
        huge_blob_shape,
        blob_beyond_the_end,
        blob_elsewhere,
    ],
)
def test_a_program_that_lacks_something(package, checked, edit):
    change(package, edit)
    line = refusal(package, checked)
    assert line.startswith("not a Core ML package this program can read (")
    assert line.endswith(f"){END}") and "(); " not in line


@pytest.mark.parametrize("pixels", [0, 1 << 20, 1 << 62])
def test_images_of_no_possible_size(package, checked, pixels):
    def edit(_: Any, function: Any) -> None:
        for dimension in function.inputs[0].type.tensorType.dimensions[2:]:
            dimension.constant.size = pixels

    change(package, edit)
    assert refusal(package, checked) == (
        f"takes images of {pixels} px, 1 to 4096 are possible{END}"
    )


def test_a_blob_that_runs_over_the_end(package: Path, checked):
    """Each weight's length is compared with the file's."""
    file = package / "Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(file.read_bytes())
    sentinel = struct.pack("<I", mlpackage.SENTINEL)
    place = data.index(sentinel)
    size, start = struct.unpack("<QQ", data[place + 8 : place + 24])
    struct.pack_into("<Q", data, place + 8, len(data) - start + 1)
    file.write_bytes(data)
    assert refusal(package, checked) == cannot(
        f"weight.bin: no weights at byte {place}"
    )
    # To the last byte of the file is not over its end.
    struct.pack_into("<Q", data, place + 8, len(data) - start)
    file.write_bytes(data)
    found = mlpackage._blob(file, place, "uint8", (len(data) - start,))
    np.testing.assert_array_equal(found[:size], data[start : start + size])


@pytest.mark.parametrize("seed", range(25))
def test_flipped_bytes(package: Path, checked, seed):
    rng = random.Random(seed)
    file = mlpackage.spec_file(package)
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 3, 20))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    file.write_bytes(
        data[: rng.choice((len(data), len(data), rng.randrange(len(data))))]
    )
    try:
        verify.judge(mlpackage.read(package), checked)
    except CheckpointError as error:
        assert "\n" not in str(error) and str(error).startswith(f"{package}: ")
