"""What is on this machine already, and where conversions are kept."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.files.cache_dir import cache_dir, hub_cache_dir
from fastvlm_mlx.hub.local_cache import (
    converted_dir,
    converted_of,
    drop_superseded,
)
from fastvlm_mlx.hub.locate import is_cached
from fastvlm_mlx.hub.snapshot import files_read
from tests.support.hub_server import WEIGHTS, empty_machine


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    """An empty machine without a hub."""
    empty_machine(monkeypatch, tmp_path, "http://127.0.0.1:9")
    return tmp_path


def test_files_read():
    assert files_read(["a.bin", "config.json", ".git/x.json"]) == [
        "a.bin",
        "config.json",
    ]
    assert files_read(["a.bin", "b.safetensors"]) == ["b.safetensors"]


Fake = Callable[..., Path]


@pytest.fixture
def fake(home: Path) -> Fake:
    """Lay out a snapshot as other versions of the library leave it: no file list."""

    def make(*names: str, index: dict[str, str] | None = None) -> Path:
        repo = home / "hf" / "hub" / "models--them--it"
        shutil.rmtree(repo, ignore_errors=True)
        folder = repo / "snapshots" / ("ab" * 20)
        folder.mkdir(parents=True)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("ab" * 20)
        for name in names:
            safe = name.endswith(".safetensors")
            (folder / name).write_bytes(WEIGHTS if safe else b"{}")
        if index is not None:
            text = json.dumps({"weight_map": index})
            (folder / "model.safetensors.index.json").write_text(text)
        return folder

    return make


def test_snapshots_of_older_libraries(fake: Fake):
    index = {"a": "1.safetensors", "b": "2.safetensors"}
    fake("config.json", "model.safetensors")
    assert is_cached("them/it")
    fake("config.json", "1.safetensors", "2.safetensors", index=index)
    assert is_cached("them/it")
    fake("config.json", "1.safetensors", index=index)
    assert not is_cached("them/it")
    fake("model.safetensors")
    assert not is_cached("them/it")
    folder = fake("config.json")
    assert not is_cached("them/it")
    (folder / "model.safetensors").symlink_to("../../blobs/none")
    assert not is_cached("them/it")


def test_cache_dir(home: Path, monkeypatch):
    assert cache_dir() == home / "ours"
    monkeypatch.delenv("FASTVLM_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "fastvlm-mlx"


def test_hub_cache_dir_is_the_library_s(home: Path, monkeypatch):
    assert hub_cache_dir() == home / "hf" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "elsewhere"))
    assert hub_cache_dir() == home / "elsewhere"
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert hub_cache_dir() == home / "xdg" / "huggingface" / "hub"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert hub_cache_dir() == Path.home() / ".cache" / "huggingface" / "hub"


def test_converted_dir_of_a_folder(home: Path):
    source = home / "model"
    source.mkdir()
    (source / "config.json").write_text("{}")
    first = converted_dir(source)
    assert first.parent == home / "ours" / "converted"
    assert first.name.startswith("model-") and first.name.endswith("-v1")
    (source / ".DS_Store").touch()
    (source / "notes.md").touch()
    assert converted_dir("model") == first  # nothing that is read has changed
    os.utime(source / "config.json", ns=(1, 1))
    later = converted_dir(source)
    assert later != first
    (source / "model.safetensors").touch()
    assert converted_dir(source) not in (first, later)
    other = home / "other"
    shutil.copytree(source, other / "model")
    assert converted_dir(other / "model") != converted_dir(source)


@pytest.mark.skipif(sys.platform == "darwin", reason="its names are all UTF-8")
def test_converted_dir_of_a_folder_whose_name_is_not_utf_8(home: Path):
    folder = home / os.fsdecode(b"m\xff")
    folder.mkdir()
    assert str(converted_dir(folder)).isascii()


def test_converted_dir_of_a_file(home: Path):
    (home / "a.zip").write_bytes(b"a")
    first = converted_dir(home / "a.zip")
    (home / "a.zip").write_bytes(b"ab")
    assert converted_dir(home / "a.zip") != first
    with pytest.raises(CheckpointError, match="b.zip: no such file or folder; check"):
        converted_dir(home / "b.zip")


def test_converted_dir_of_a_snapshot(fake: Fake):
    folder = fake("config.json", "model.safetensors")
    done = converted_dir(folder)
    assert done.name == "them--it@abababababab-v1"
    (folder / "config.json").write_text("a commit never changes")
    assert converted_dir(folder) == done
    assert converted_of("them/it") is None
    done.mkdir(parents=True)
    assert converted_of("them/it") is None  # unfinished
    (done / "config.json").touch()
    assert converted_of("them/it") == converted_of("them/it", "ab" * 20) == done
    assert converted_of("them/it", "cd" * 20) is None
    assert converted_of("them/it", "branch") is None


def test_superseded_conversions_go(home: Path):
    kept = [
        "a-00000000@222222222222-v1",
        "a-00000000@111111111111-v1-4bitaaaa",
        "b-00000000@111111111111-v1",
        "us--it@111111111111-v1",
        "us--it@222222222222-v1",
    ]
    dropped = ["a-00000000@111111111111-v1", "us--it@111111111111-v0"]
    store = home / "ours" / "converted"
    for name in kept + dropped:
        (store / name).mkdir(parents=True)
    drop_superseded(store / kept[0])
    drop_superseded(store / "us--it@222222222222-v1")
    assert sorted(path.name for path in store.iterdir()) == sorted(kept)
