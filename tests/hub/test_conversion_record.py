"""The record of a conversion: what it notices, and which records count."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.hub import conversion_record
from fastvlm_mlx.hub.conversion_record import (
    RECORD,
    has_record,
    recorded_fault,
    write_record,
)

FILES = {"config.json": b"{}", "model.safetensors": b"weights", "deep/a.txt": b"text"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    write_record(tmp_path)
    return tmp_path


def test_a_whole_conversion(folder: Path):
    assert has_record(folder) and recorded_fault(folder) is None
    record = json.loads((folder / RECORD).read_text())
    assert record["version"] == 1
    assert record["files"] == {
        "config.json": {"size": 2, "crc32": 2745614147},
        "deep/a.txt": {"size": 4, "crc32": 999008199},
        "model.safetensors": {"size": 7},
    }


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_cut(folder: Path, name: str):
    size = len(FILES[name])
    (folder / name).write_bytes(FILES[name][:-1])
    assert recorded_fault(folder) == f"{name} has {size - 1} bytes instead of {size}"
    (folder / name).unlink()
    assert recorded_fault(folder) == f"{name} is missing"


def test_other_bytes_of_the_same_size(folder: Path):
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")  # too long to be read
    assert recorded_fault(folder) is None
    (folder / "config.json").write_bytes(b"[]")
    assert recorded_fault(folder) == "config.json has changed"


def test_files_that_are_too_many(folder: Path):
    for name in ("notes.txt", ".hidden.json", "deep/.hidden.json"):
        (folder / name).write_text("x")
    assert recorded_fault(folder) is None
    (folder / "deep" / "extra.json").write_text("{}")
    assert recorded_fault(folder) == "deep/extra.json does not belong to it"


@pytest.mark.parametrize(("size", "noticed"), [(8, True), (9, False)])
def test_large_files_are_known_by_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, noticed: bool
):
    monkeypatch.setattr(conversion_record, "_MAX_SUMMED", 8)
    (tmp_path / "a").write_bytes(bytes(size))
    write_record(tmp_path)
    (tmp_path / "a").write_bytes(b"\1" * size)
    assert recorded_fault(tmp_path) == ("a has changed" if noticed else None)


@pytest.mark.parametrize(
    "record",
    [
        {"version": 2, "files": {"a": {"size": 1}}},
        {"files": {"a": {"size": 1}}},
        {"version": 1, "files": ["a"]},
        {"version": 1},
        {"version": 1, "files": {"a": 1}},
        [],
    ],
)
def test_records_that_do_not_count(tmp_path: Path, record: Any):
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert not has_record(tmp_path) and recorded_fault(tmp_path) is None


def test_a_record_of_nothing_counts(tmp_path: Path):
    write_record(tmp_path)
    assert has_record(tmp_path)
    (tmp_path / RECORD).write_text('{"version": 1, "files": {"a": {"size": 1}}}')
    assert has_record(tmp_path) and recorded_fault(tmp_path) == "a is missing"
