"""What cannot be encoded or kept: damaged files, bad images, no room; one line each."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.errors import CheckpointError, DataError, OptionError
from fastvlm_mlx.model.feature_files import array_hash
from fastvlm_mlx.train.data.features import FeatureStore
from fastvlm_mlx.train.data.rows import build_rows
from tests.support.mock_model import MockModel
from tests.support.train_features import files, paths, samples


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-7] ^= 4
    file.write_bytes(data)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _gone(file: Path) -> None:
    file.unlink()


def _other(file: Path) -> None:
    file.unlink()
    array = mx.zeros((4, 7))
    with file.open("wb") as opened:
        mx.save_safetensors(opened, {"features": array}, {"hash": array_hash(array)})  # type: ignore


@pytest.mark.parametrize("damage", [_cut, _flip, _empty, _gone, _other])
def test_damaged_features_are_made_anew(
    damage: Any, model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]
):
    store = FeatureStore(tmp_path / "kept", model)
    data = samples(*paths(folder))
    store.prepare(data)
    before = [np.array(store.read(path)) for path in paths(folder)]
    damage(files(store)[2])
    if damage is not _other:
        with pytest.raises(DataError) as caught:
            for path in paths(folder):
                store.read(path)
        assert "gone or damaged; run the same command again" in str(caught.value)
    assert FeatureStore(tmp_path / "kept", model).prepare(data) == 1
    assert len(encoded) == 5
    for path, wanted in zip(paths(folder), before, strict=True):
        np.testing.assert_array_equal(store.read(path), wanted)


def test_images_that_cannot_be_used(
    model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]
):
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    (folder / "dir.png").mkdir()
    bad = [folder / n for n in ("text.png", "cut.png", "gone.png", "dir.png")]
    data = samples(bad[0], folder / "a.png", bad[1], bad[2], folder / "b.png", bad[3])
    store = FeatureStore(tmp_path / "kept", model)
    told: list[int] = []
    with pytest.raises(DataError) as caught:
        store.prepare(data, lambda done, total: told.append(done))
    message = str(caught.value)
    print(message)
    assert message.startswith("4 images that cannot be used: set.jsonl:")
    assert f"set.jsonl:4: {bad[2]}: no such file or directory; " in message
    assert f"set.jsonl:6: {bad[3]}: is a directory; " in message
    assert f"set.jsonl:1: {bad[0]}: " in message and "; and 1 more; replace" in message
    assert told == [1, 2, 3, 4, 5, 6]
    # Nothing of the others is lost.
    assert encoded == [1, 1] and store.prepare([data[1], data[4]]) == 0


def test_an_image_that_cannot_be_used_is_told_in_a_line(
    model: MockModel, folder: Path, tmp_path: Path
):
    (folder / "text.png").write_text("hello")
    store = FeatureStore(tmp_path, model)
    with pytest.raises(DataError) as caught:
        store.prepare(samples(folder / "text.png"))
    assert str(caught.value) == (
        f"set.jsonl:1: {folder / 'text.png'}: not an image; replace it or take it out"
    )
    # Where the number of tiles hangs on the size, it is opened to count the tokens.
    anyres = FeatureStore(tmp_path, MockModel(grid_pinpoints=((256, 128),)))
    data = samples(folder / "text.png", folder / "a.png")
    with pytest.raises(DataError, match="set.jsonl:1: .*text.png: not an image; repl"):
        build_rows(data, model.tokenizer, anyres.count_tokens, 200)


def test_not_finite(model: MockModel, folder: Path, tmp_path: Path, monkeypatch):
    nan = mx.full((1, 4, 32), float("nan"))
    monkeypatch.setattr(MockModel, "encode_features", lambda self, pixels: nan)
    with pytest.raises(DataError, match=r"a\.png: .*are not finite; "):
        FeatureStore(tmp_path, model).prepare(samples(folder / "a.png"))


def test_models_that_cannot_be_trained(tmp_path: Path):
    with pytest.raises(CheckpointError, match="an encoder alone and cannot be trained"):
        FeatureStore(tmp_path, MockModel(text=None))
    with pytest.raises(CheckpointError, match="has no vision encoder; convert it with"):
        FeatureStore(tmp_path, MockModel(vision=None))


def test_no_room(model: MockModel, folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("fastvlm_mlx.files.disk_space.free_space", lambda folder: 500)
    store = FeatureStore(tmp_path / "kept", model)
    with pytest.raises(
        OptionError, match=r"17\.4 kB needed, 500 bytes free; free some"
    ):
        store.prepare(samples(*paths(folder)))


def test_no_room_beside_images_that_cannot_be_opened(
    folder: Path, tmp_path: Path, monkeypatch
):
    (folder / "text.png").write_text("hello")
    monkeypatch.setattr("fastvlm_mlx.files.disk_space.free_space", lambda folder: 500)
    store = FeatureStore(tmp_path, MockModel(grid_pinpoints=((256, 128),)))
    with pytest.raises(OptionError, match="needed, 500 bytes free"):
        store.prepare(samples(folder / "text.png", folder / "a.png"))


def test_a_closed_folder(model: MockModel, folder: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    store = FeatureStore(tmp_path / "file", model)
    with pytest.raises(OptionError) as caught:
        store.prepare(samples(*paths(folder)))
    message = str(caught.value)
    print(message)
    assert message.startswith(f"{tmp_path / 'file'}: ") and ";" in message
    assert (tmp_path / "file").read_text() == "x"
