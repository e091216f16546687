"""Which files of a snapshot count, which are whole, and which commit it is."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from fastvlm_mlx.hub import snapshot
from fastvlm_mlx.hub.local_cache import (
    converted_dir,
    converted_of,
    drop_superseded,
    is_conversion,
)
from fastvlm_mlx.hub.snapshot import (
    commit_of,
    files_read,
    incomplete_files,
    is_stored,
    ref_file,
    snapshot_folder,
)
from tests.support.hub_server import WEIGHTS, empty_machine

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHOLE = {"config.json": b'{"vocab_size": 7}', "tokenizer.json": b"{}"}
WHOLE |= {"model.safetensors": WEIGHTS}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    empty_machine(monkeypatch, tmp_path, "http://127.0.0.1:9")
    return tmp_path


def store(home: Path, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    repository = home / "hf" / "hub" / "models--them--it"
    folder = repository / "snapshots" / commit
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return folder


def listed(folder: Path, files: dict[str, int], version: int = 1) -> None:
    trees = folder.parent.parent / "trees"
    trees.mkdir(exist_ok=True)
    noted = {name: {"size": size} for name, size in files.items()}
    (trees / f"{folder.name}.json").write_text(
        json.dumps({"format_version": version, "files": noted})
    )


@pytest.mark.parametrize(
    "name",
    [
        *("a.safetensors", "deep/a.safetensors", "config.json", "merges.txt"),
        *("chat_template.jinja", "tokenizer.model", "e.mlpackage/Data/x", "LICENSE"),
        *("LICENSE_MODEL", "ACKNOWLEDGEMENTS", "README.md"),
    ],
)
def test_files_that_some_reader_opens(name):
    assert files_read([name, "b.safetensors"]) == [name, "b.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        *(".gitattributes", ".hidden.json", ".cache/a.json", "a/.b/c.json", "a.onnx"),
        *("readme.md", "notes.md", "spiece.model", "image.png", "a.bin", "a.pt"),
        *("deep/a.pth", "A.SAFETENSORS"),
    ],
)
def test_files_that_none_opens(name):
    assert files_read([name, "b.safetensors"]) == ["b.safetensors"]


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "deep/a.pth"])
def test_pickles_where_nothing_else_is(name):
    assert files_read([name, "config.json"]) == [name, "config.json"]


def test_the_commit_of_a_revision(home: Path):
    store(home, WHOLE)
    assert commit_of("them/it", "main") == COMMIT
    assert commit_of("them/it", COMMIT) == COMMIT
    assert commit_of("them/it", "0" * 40) == "0" * 40  # whether it is there or not
    for revision in ("other", COMMIT[:-1], COMMIT.upper(), COMMIT + "0"):
        assert commit_of("them/it", revision) is None
    reference = ref_file("them/it", "main")
    for text in (b"", b"main", COMMIT[:12].encode(), b"\xff" * 40):
        reference.write_bytes(text)
        assert commit_of("them/it", "main") is None
    reference.write_text(f"{COMMIT}\n")
    assert commit_of("them/it", "main") == COMMIT


def test_the_folder_of_a_commit(home: Path):
    folder = store(home, WHOLE)
    assert snapshot_folder("them/it") == folder == snapshot.snapshot("them/it")
    assert snapshot_folder("them/it", "0" * 40) is None
    assert snapshot_folder("them/other") is None
    (folder / "config.json").unlink()
    assert snapshot_folder("them/it") == folder
    assert snapshot.snapshot("them/it") is None


def test_the_list_of_files_is_believed(home: Path):
    folder = store(home, WHOLE | {"extra.json": b"{}"})
    sizes = {name: len(data) for name, data in WHOLE.items()}
    listed(folder, sizes)
    assert incomplete_files(folder) == []
    listed(folder, sizes | {"extra.json": 3, "more.txt": 0, "notes.md": 9})
    assert incomplete_files(folder) == ["extra.json", "more.txt"]
    listed(folder, sizes | {"extra.json": 2})
    assert incomplete_files(folder) == []
    listed(folder, {"notes.md": 9})
    assert incomplete_files(folder) == ["*.safetensors"]
    listed(folder, {"more.txt": 0}, version=2)  # of no version that is known
    assert incomplete_files(folder) == []


@pytest.mark.parametrize(
    ("files", "lacking"),
    [
        (("config.json", "model.safetensors", "tokenizer.json"), []),
        (("config.json", "model.safetensors", "vocab.json", "merges.txt"), []),
        (("config.json", "model.safetensors", "vocab.json"), ["tokenizer.json"]),
        (("config.json", "tokenizer.json", "a.bin"), []),
        (("config.json", "tokenizer.json", "a.pt"), []),
        (("config.json", "tokenizer.json", "a.pth"), []),
        (("config.json", "tokenizer.json"), ["*.safetensors"]),
        (("tokenizer.json", "model.safetensors"), ["config.json"]),
        ((), ["*.safetensors", "config.json"]),
    ],
)
def test_what_a_model_cannot_do_without(home: Path, files, lacking):
    folder = store(home, {".x": b""} | {n: WHOLE.get(n, b"{}") for n in files})
    assert incomplete_files(folder) == lacking


@pytest.mark.parametrize("key", ["vocab_size", "text_config", "text", None])
def test_only_a_language_model_has_a_tokenizer(home: Path, key):
    config = json.dumps({key: 1} if key else {"image_size": 1}).encode()
    folder = store(home, {"config.json": config, "a.safetensors": WEIGHTS})
    assert incomplete_files(folder) == (["tokenizer.json"] if key else [])


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_shards_of_an_index(home: Path, kind):
    index = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}[kind]
    data = WEIGHTS if kind == "safetensors" else b"pickle"
    files = WHOLE | {f"1.{kind}": data}
    files.pop("model.safetensors")
    files[f"{index}.index.json"] = json.dumps(
        {"weight_map": {"a": f"1.{kind}", "b": f"2.{kind}"}}
    ).encode()
    folder = store(home, files)
    assert incomplete_files(folder) == [f"2.{kind}"]
    (folder / f"{index}.index.json").write_text("{}")
    assert incomplete_files(folder) == []
    (folder / f"{index}.index.json").write_text("{")
    assert incomplete_files(folder) == [f"{index}.index.json"]


def test_what_is_stored_whole(tmp_path: Path):
    file = tmp_path / "notes.txt"
    assert not is_stored(file) and not is_stored(tmp_path)
    file.write_bytes(b"12345")
    assert is_stored(file) and is_stored(file, 5) and is_stored(file, 4)
    assert not is_stored(file, 6)
    for name in ("a.safetensors", "config.json", "model.safetensors.index.json"):
        (tmp_path / name).write_bytes(b"damaged")
        assert not is_stored(tmp_path / name)
        assert is_stored(tmp_path / name, 0) is False


@pytest.mark.parametrize("kind", ["sha256", "git", "sha1"])
def test_what_is_damaged_on_the_hub_too(tmp_path: Path, kind):
    data = b"damaged" * 200_000
    name = {
        "sha256": hashlib.sha256(data),
        "git": hashlib.sha1(f"blob {len(data)}\0".encode() + data),
        "sha1": hashlib.sha1(data),
    }[kind].hexdigest()
    (tmp_path / name).write_bytes(data)
    link = tmp_path / "a.safetensors"
    link.symlink_to(tmp_path / name)
    assert is_stored(link)
    (tmp_path / name).write_bytes(data[:-1])
    assert not is_stored(link)


def make(home: Path, name: str, time: int = 0) -> Path:
    folder = home / "ours" / "converted" / name
    folder.mkdir(parents=True)
    if time:
        os.utime(folder, (time, time))
    return folder


def test_conversions_that_are_superseded(home: Path):
    names = (
        *("them--it@aaaaaaaaaaaa-v0", "them--it@bbbbbbbbbbbb-v1"),
        *("them--it@bbbbbbbbbbbb-v0-8bit", "them--other@aaaaaaaaaaaa-v0"),
        *("it-1234@aaaaaaaaaaaa-v1", ".them--it@aaaaaaaaaaaa-v0", "something"),
    )
    kept = {make(home, name) for name in names}
    drop_superseded(make(home, "them--it@aaaaaaaaaaaa-v1"))
    left = {path.name for path in (home / "ours" / "converted").iterdir()}
    assert left == {path.name for path in kept} - {"them--it@aaaaaaaaaaaa-v0"} | {
        "them--it@aaaaaaaaaaaa-v1"
    }
    # Of a folder of the user's, every other state goes too.
    drop_superseded(make(home, "it-1234@bbbbbbbbbbbb-v1"))
    assert not (home / "ours" / "converted" / names[4]).exists()
    drop_superseded(home / "ours" / "converted" / "it-1234@cccccccccccc-v1")
    assert (home / "ours" / "converted" / "it-1234@bbbbbbbbbbbb-v1").exists()


def test_what_is_a_conversion(home: Path):
    folder = make(home, "them--it@aaaaaaaaaaaa-v1")
    assert is_conversion(folder)
    assert not is_conversion(folder / "deep") and not is_conversion(folder.parent)


def test_a_conversion_is_found_by_its_commit(home: Path):
    assert converted_of("them/it") is None
    folder = make(home, "them--it@0123456789ab-v1")
    assert converted_of("them/it") is None  # nothing in it
    assert converted_of("them/it", "v2") is None
    snap = store(home, WHOLE)
    assert converted_dir(snap) == folder
