"""Features: each image is encoded once and kept by content."""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess
from fastvlm_mlx.train.data.batches import make_batch
from fastvlm_mlx.train.data.features import FeatureStore, features_folder
from fastvlm_mlx.train.data.rows import build_rows
from tests.support.mock_model import MockModel, make_image
from tests.support.train_features import files, paths, samples


def test_what_the_encoder_says(model: MockModel, folder: Path, tmp_path: Path):
    store = FeatureStore(tmp_path / "kept", model)
    assert store.prepare(samples(*paths(folder))) == 4
    for path in paths(folder):
        options = ImageOptions.of(model.config)
        wanted = model.encode_features(preprocess(open_image(path), options))[0]
        got = store.read(path)
        assert got.dtype == mx.float16 == store.dtype
        assert got.shape == (4, 32) == (store.count_tokens(path), store.width)
        np.testing.assert_array_equal(got, wanted.astype(mx.float16))
    # Through the projector they are what a chat sees, but for the rounding.
    shown = model.encode_image(paths(folder)[0])[0]
    kept = model.project(store.read(paths(folder)[0]).astype(mx.float32))
    assert float(mx.abs(shown).max().item()) > 100  # type: ignore[arg-type]
    np.testing.assert_allclose(kept, shown, rtol=2e-3, atol=0.1)


def test_each_image_once(
    model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]
):
    store = FeatureStore(tmp_path / "kept", model)
    copy = (folder / "a.png").read_bytes()
    told: list[tuple[int, int]] = []
    data = samples(*paths(folder), *paths(folder), copy)
    assert store.prepare([data[1], data[2]]) == 2
    assert store.prepare(data, lambda done, total: told.append((done, total))) == 2
    assert told == [(n, 5) for n in range(1, 6)]
    # The next run has another store, and finds them.
    again = FeatureStore(tmp_path / "kept", model)
    assert again.prepare(data) == 0 and encoded == [1] * 4
    np.testing.assert_array_equal(again.read(copy), store.read(folder / "a.png"))
    assert len(files(store)) == 4
    # A file may be named by a text as well, and is known by what is in it.
    assert again.prepare(samples(str(folder / "a.png"))) == 0
    make_image(9).save(folder / "a.png")
    assert FeatureStore(tmp_path / "kept", model).prepare(data) == 1


def test_other_encoders_and_options_have_their_own(model: MockModel, tmp_path: Path):
    other = MockModel()
    assert other.vision_tower is not None
    layer = other.vision_tower.stem.conv
    layer.weight = layer.weight * 1.0001
    stores = [
        FeatureStore(tmp_path, model),
        FeatureStore(tmp_path, other),
        FeatureStore(tmp_path, model, ImageOptions("crop", 128)),
        FeatureStore(tmp_path, model, ImageOptions("pad", 192)),
        FeatureStore(tmp_path, model, ImageOptions("pad", 128, (1, 2))),
        FeatureStore(tmp_path, model, dtype=mx.float32),
        FeatureStore(tmp_path, MockModel(grid_pinpoints=((256, 128),))),
    ]
    assert len({store.folder for store in stores}) == len(stores)
    assert FeatureStore(tmp_path, MockModel()).folder == stores[0].folder


def test_tiles(folder: Path, tmp_path: Path, encoded: list[int]):
    image = folder / "a.png"
    pinpoints = ((128, 256), (256, 128), (256, 256), (512, 128))
    model = MockModel(grid_pinpoints=pinpoints)
    store = FeatureStore(tmp_path / "kept", model)
    wide = tmp_path / "wide.png"
    make_image(5, (900, 200)).save(wide)
    options = ImageOptions.of(model.config)
    squares = [
        len(preprocess(open_image(each), options, pinpoints)) for each in (image, wide)
    ]
    assert squares[0] != squares[1]
    counted = [store.count_tokens(each) for each in (image, wide)]
    assert counted == [4 * count for count in squares]
    store.prepare(samples(image, wide))
    assert encoded == squares and len(store.read(wide)) == counted[1]
    forced = FeatureStore(tmp_path / "kept", model, ImageOptions("pad", 128, (2, 2)))
    assert forced.count_tokens(image) == 20
    assert forced.prepare(samples(image)) == 1 and len(forced.read(image)) == 20


def test_a_batch_of_real_features(model: MockModel, folder: Path, tmp_path: Path):
    store = FeatureStore(tmp_path / "kept", model)
    data = samples(*paths(folder)[:2])
    rows = build_rows(data, model.tokenizer, store.count_tokens, 200)
    store.prepare(data)
    batch = make_batch(rows, store, 2)
    places = np.array(batch.feature_rows)
    for at, path in enumerate(paths(folder)[:2]):
        found = np.array(batch.features)[places[at][places[at] >= 0]]
        np.testing.assert_array_equal(found, store.read(path))


def test_beyond_float16(model: MockModel, folder: Path, tmp_path: Path, monkeypatch):
    large = mx.full((1, 4, 32), 1e5)
    monkeypatch.setattr(MockModel, "encode_features", lambda self, pixels: large)
    store = FeatureStore(tmp_path / "kept", model)
    store.prepare(samples(folder / "a.png"))
    assert store.read(folder / "a.png")[0, 0].item() == 1e5
    rows = build_rows(
        samples(folder / "a.png"), model.tokenizer, store.count_tokens, 200
    )
    assert mx.isfinite(make_batch(rows, store, 1).features).all()


def test_bfloat16(folder: Path, tmp_path: Path):
    model = MockModel()
    first = FeatureStore(tmp_path / "kept", model)
    model.set_dtype(mx.bfloat16)
    store = FeatureStore(tmp_path / "kept", model)
    whole = FeatureStore(tmp_path / "kept", model, dtype=mx.bfloat16)
    assert len({first.folder, store.folder, whole.folder}) == 3
    for each in (store, whole):
        each.prepare(samples(folder / "a.png"))
        assert each.read(folder / "a.png").dtype == each.dtype
    # float16 holds all that bfloat16 does, but for numbers below its smallest.
    np.testing.assert_allclose(
        store.read(folder / "a.png").astype(mx.float32),
        whole.read(folder / "a.png").astype(mx.float32),
        rtol=0,
        atol=2.0**-25,
    )


class _Encoder:
    projected = True

    def __init__(self, factor: float):
        self.factor = factor

    def __call__(self, pixels: Any) -> mx.array:
        return mx.full((len(pixels), 4, 32), self.factor * float(pixels.mean()))


def test_another_encoder(folder: Path, tmp_path: Path):
    model = MockModel()
    folders = {FeatureStore(tmp_path, model).folder}
    for factor in (1.0, 1.0, 2.0):
        model.encoder = _Encoder(factor)
        store = FeatureStore(tmp_path, model)
        folders.add(store.folder)
        store.prepare(samples(folder / "a.png"))
        assert store.read(folder / "a.png").shape == (4, 32)
    assert len(folders) == 3


def test_the_usual_folder(isolated_cache: Path):
    assert features_folder() == isolated_cache / "features"
