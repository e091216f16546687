"""Snapshots in the hub's cache that lack files, or hold them cut short."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastvlm_mlx.errors import DownloadError
from fastvlm_mlx.hub.locate import is_cached, locate
from fastvlm_mlx.hub.snapshot import commit_of, incomplete_files
from tests.support.hub_server import WEIGHTS, Hub, Repository

NAME = "them/model"
FILES = {
    "config.json": b'{"vocab_size": 7}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "model.safetensors": WEIGHTS,
}


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub({NAME: [Repository(FILES)]}) as hub:
        yield hub


def fetch(*names: str) -> Path:
    """What another program needed of it; returns the snapshot."""
    from huggingface_hub import hf_hub_download

    # The library read its variables when it was imported.
    store, hub = f"{os.environ['HF_HOME']}/hub", os.environ["HF_ENDPOINT"]
    files = [hf_hub_download(NAME, n, cache_dir=store, endpoint=hub) for n in names]
    return Path(files[0]).parent


def failure() -> str:
    with pytest.raises(DownloadError) as caught:
        locate(NAME)
    line = str(caught.value)
    assert line.isprintable()
    return line


def assert_whole(folder: Path) -> None:
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == FILES
    assert is_cached(NAME) and locate(NAME) == folder


def test_the_rest_is_fetched(home: Path, server: Hub):
    folder = fetch("config.json", "generation_config.json", "model.safetensors")
    assert incomplete_files(folder) == ["tokenizer.json"] and not is_cached(NAME)
    server.requests.clear()
    assert locate(NAME) == folder
    assert server.fetched() == ["tokenizer.json"]
    assert_whole(folder)


def test_a_part_without_the_hub(home: Path, server: Hub, monkeypatch):
    fetch("config.json", "model.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert failure() == (
        f"{NAME}: the cache lacks tokenizer.json, and HF_HUB_OFFLINE is set;"
        f" unset it, or run `hf download {NAME}` online"
    )
    monkeypatch.delenv("HF_HUB_OFFLINE")
    server.refuse[NAME] = (503, "")
    assert failure() == (
        f"{NAME}: the cache lacks tokenizer.json: {server.url} fails with 503;"
        " try again later"
    )
    server.refuse[NAME] = (403, "")
    assert failure().startswith(
        f"{NAME}: the cache lacks tokenizer.json: is gated; request access at"
    )


@pytest.mark.parametrize("name", FILES)
def test_cut_and_missing_files_are_fetched_anew(home: Path, server: Hub, name: str):
    folder = locate(NAME)
    for damage in ("cut", "empty", "blob", "link"):
        blob = (folder / name).resolve()
        if damage == "cut":
            blob.write_bytes(FILES[name][:-1])
        elif damage == "empty":
            blob.write_bytes(b"")
        elif damage == "blob":
            blob.unlink()
        else:
            (folder / name).unlink()
            blob.write_bytes(b"")
        assert incomplete_files(folder) == [name] and not is_cached(NAME)
        server.requests.clear()
        assert locate(NAME) == folder
        assert server.fetched() == [name], damage
        assert_whole(folder)


def test_cut_files_without_the_hub(home: Path, server: Hub, monkeypatch):
    weights = locate(NAME) / "model.safetensors"
    weights.resolve().write_bytes(b"cut")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert failure() == (
        f"{NAME}: {weights} is damaged or cut short, and HF_HUB_OFFLINE is set; unset"
        f" it, or delete {weights.resolve()} and run `hf download {NAME}` online"
    )


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "empty", "blob"])
def test_caches_of_older_libraries_heal(
    home: Path, server: Hub, name: str, damage: str
):
    folder = locate(NAME)
    shutil.rmtree(folder.parent.parent / "trees")  # no list of the files' sizes
    blob = (folder / name).resolve()
    if damage == "blob":
        blob.unlink()
    else:
        blob.write_bytes(FILES[name][:-1] if damage == "cut" else b"")
    assert incomplete_files(folder) == [name] and not is_cached(NAME)
    server.requests.clear()
    assert locate(NAME) == folder and server.fetched() == [name]
    assert_whole(folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("is_listed", [True, False])
def test_zeros_of_the_right_size(home: Path, server: Hub, name: str, is_listed: bool):
    folder = locate(NAME)
    if not is_listed:  # as older libraries leave it
        shutil.rmtree(folder.parent.parent / "trees")
    (folder / name).resolve().write_bytes(bytes(len(FILES[name])))
    server.requests.clear()
    assert locate(NAME) == folder and server.fetched() == [name]
    assert_whole(folder)


def test_what_is_damaged_on_the_hub_is_not_fetched_again(home: Path, server: Hub):
    server.repositories[NAME] = [Repository({**FILES, "model.safetensors": b"junk"})]
    folder = locate(NAME)
    server.requests.clear()
    assert locate(NAME) == folder and server.requests == []


@pytest.mark.parametrize(
    "ref", [b"\xff\xfe", b"a\0b", b"../../../etc", b"", b"a" * 39, b"main"]
)
def test_a_damaged_name_of_the_revision(home: Path, server: Hub, ref: bytes):
    folder = locate(NAME)
    file = home / "hf" / "hub" / "models--them--model" / "refs" / "main"
    file.write_bytes(ref)
    assert commit_of(NAME, "main") is None and not is_cached(NAME)
    server.requests.clear()
    assert locate(NAME) == folder and server.fetched() == []
    assert_whole(folder)


def test_a_list_of_files_that_is_damaged(home: Path, server: Hub):
    folder = locate(NAME)
    (listing,) = folder.parent.parent.glob("trees/*.json")
    for content in (b"", b"[]", b'{"format_version": 1, "files": [1]}', b"\xff"):
        listing.write_bytes(content)
        assert_whole(folder)
    (folder / "tokenizer.json").unlink()
    assert incomplete_files(folder) == ["tokenizer.json"]
