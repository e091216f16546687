"""JSON as it lies in model folders: marked, empty, wide, or no file at all."""

import os
from pathlib import Path

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files import json_file
from fastvlm_mlx.files.json_file import read_json

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


def refused(path: Path, **options: bool) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_json(path, **options)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    return line.removeprefix(f"{path}: ")


def test_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"a": "\u00e9"}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": "\u00e9"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings(tmp_path: Path, encoding: str):
    (tmp_path / "a.json").write_text('{"a": 1}', encoding=encoding)
    line = "is UTF-16 or UTF-32 text; save it as UTF-8"
    assert refused(tmp_path / "a.json") == line


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "is empty; download the file again"),
        (bytes(99), "holds only zeros; download the file again"),
        (b"{", "not valid JSON (Expecting property name"),
        (b"\xff{}", "not valid JSON ('utf-8' codec can't decode"),
        (b"[]", "holds a list, not an object; download the file again"),
        (b"9" * 5000, "not valid JSON (Exceeds the limit"),
        (b"[" * 10**5, "not valid JSON (maximum recursion depth"),
        (POINTER, "is a git-lfs pointer, not the file itself; run `git lfs pull` in "),
    ],
)
def test_damaged_files(tmp_path: Path, data: bytes, line: str):
    (tmp_path / "a.json").write_bytes(data)
    assert refused(tmp_path / "a.json").startswith(line)


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert json_file._LARGEST == 2**30  # what is read into memory at most, in bytes
    monkeypatch.setattr(json_file, "_LARGEST", 8)
    (tmp_path / "a.json").write_text('{"a":1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert refused(tmp_path / "a.json").startswith("is larger than any JSON")


@pytest.mark.parametrize("optional", [False, True])
def test_what_is_no_file(tmp_path: Path, optional: bool):
    path = tmp_path / "a.json"
    path.mkdir()
    assert refused(path, optional=optional).startswith("is a folder, not a file; put")
    path.rmdir()
    os.mkfifo(path)
    assert refused(path, optional=optional).startswith("is a pipe, not a file; put")
    path.unlink()
    path.symlink_to("/dev/zero")
    assert refused(path, optional=optional).startswith("is a device, not a file; put")
    path.unlink()
    path.symlink_to("nowhere")
    assert refused(path, optional=optional) == (
        "cannot be read (No such file or directory); it is a link to nothing, get the"
        " file again"
    )


def test_no_file(tmp_path: Path):
    assert read_json(tmp_path / "a.json", optional=True) == {}
    assert refused(tmp_path / "a.json") == "no such file; a model folder needs it"
