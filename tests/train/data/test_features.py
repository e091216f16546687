"""Features: each image is encoded once, kept by content, made anew when damaged."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.errors import CheckpointError, DataError, OptionError
from fastvlm_mlx.processing.image_file import open_image
from fastvlm_mlx.processing.image_options import ImageOptions
from fastvlm_mlx.processing.image_processor import preprocess
from fastvlm_mlx.train.data.batches import make_batch
from fastvlm_mlx.train.data.feature_files import array_hash
from fastvlm_mlx.train.data.features import FeatureStore, features_folder
from fastvlm_mlx.train.data.rows import build_rows
from fastvlm_mlx.train.data.samples import Image, Sample
from tests.support.mock_model import MockModel, make_image
from tests.support.paths import ROOT


@pytest.fixture
def encoded(model: MockModel, monkeypatch) -> list[int]:
    """How many squares each call of the encoder had."""
    calls: list[int] = []
    real = MockModel.encode_features

    def encode(self: MockModel, pixels: Any) -> mx.array:
        calls.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(MockModel, "encode_features", encode)
    return calls


def samples(*images: Image) -> list[Sample]:
    return [
        Sample((image,), (("What?", "A cup."),), origin=f"set.jsonl:{at}")
        for at, image in enumerate(images, start=1)
    ]


def paths(folder: Path) -> list[Path]:
    return [folder / name for name in ("a.png", "b.png", "c.png", "sub/d.png")]


def files(store: FeatureStore) -> list[Path]:
    return sorted(file for file in store.folder.rglob("*") if file.is_file())


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


def test_processes_share_the_work(
    model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]
):
    data = samples(*paths(folder))
    stores = [FeatureStore(tmp_path / "kept", model) for _ in range(2)]
    order: list[Path] = []

    def second(done: int, total: int) -> None:
        if not order:  # while the first is at its first image
            order.append(folder)
            stores[1].prepare(data, rank=1, ranks=2)

    told: list[int] = []

    def first(done: int, total: int) -> None:
        told.append(done)
        second(done, total)

    stores[0].prepare(data, first, rank=0, ranks=2)
    assert told == [1, 2, 3, 4]
    # The one that was opened ahead is encoded twice at most.
    assert 4 <= len(encoded) <= 5 and len(files(stores[0])) == 4


def test_each_process_begins_elsewhere(model: MockModel, folder: Path, tmp_path: Path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for rank, begun in ((0, "a.png"), (1, "c.png")):
        store = FeatureStore(tmp_path / str(rank), model)
        with pytest.raises(KeyboardInterrupt):
            store.prepare(samples(*paths(folder)), stop, rank=rank, ranks=2)
        assert len(files(store)) == 1 and store.read(folder / begun).shape == (4, 32)


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


def test_models_that_cannot_be_trained(tmp_path: Path):
    with pytest.raises(CheckpointError, match="an encoder alone and cannot be trained"):
        FeatureStore(tmp_path, MockModel(text=None))
    with pytest.raises(CheckpointError, match="has no vision encoder; convert it with"):
        FeatureStore(tmp_path, MockModel(vision=None))


def test_the_usual_folder(isolated_cache: Path):
    assert features_folder() == isolated_cache / "features"


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


def _python(code: str, *arguments: object, prefix: tuple[str, ...] = ()) -> Any:
    return subprocess.Popen(
        [*prefix, sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


PREPARE = """
    import sys, time
    from pathlib import Path
    from fastvlm_mlx.errors import FastVLMError
    from fastvlm_mlx.train.data.features import FeatureStore
    from fastvlm_mlx.train.data.samples import Sample
    from tests.support.mock_model import MockModel
    store = FeatureStore(sys.argv[1], MockModel())
    images = sorted(Path(sys.argv[2]).rglob("*.png"))
    data = [Sample((i,), (("?", "x"),), origin=i.name) for i in images]
    def tell(done, total):
        print(done, flush=True)
        if PAUSE and done == 2:
            time.sleep(60)
    try:
        store.prepare(data, tell)
    except FastVLMError as error:
        print(error)
"""


def test_killed(model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]):
    code = f"PAUSE = True\n{textwrap.dedent(PREPARE)}"
    with _python(code, tmp_path / "kept", folder) as process:
        while process.stdout.readline().strip() != "2":
            assert process.poll() is None, process.stderr.read()
        process.kill()
        process.communicate(timeout=30)
    store = FeatureStore(tmp_path / "kept", model)
    assert len(files(store)) == 2
    assert store.prepare(samples(*paths(folder))) == 2 and len(encoded) == 2
    assert len(files(store)) == 4 and not list(store.folder.rglob(".*"))


def test_interrupted(
    model: MockModel, folder: Path, tmp_path: Path, encoded: list[int]
):
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    store = FeatureStore(tmp_path / "kept", model)
    with pytest.raises(KeyboardInterrupt):
        store.prepare(samples(*paths(folder)), interrupt)
    assert len(encoded) == len(files(store)) == 3
    assert store.prepare(samples(*paths(folder))) == 1


@pytest.fixture
def small_disk() -> Iterator[tuple[str, ...]]:
    prefix = ("unshare", "--mount", "--map-root-user")
    try:
        done = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        done = False
    if not done:
        pytest.skip("needs Linux user namespaces to mount a small tmpfs")
    yield (*prefix, "sh", "-c", 'mount -t tmpfs -o size=32k none "$0" && exec "$@"')


def test_a_full_disk(small_disk: tuple[str, ...], folder: Path, tmp_path: Path):
    """The disk fills while features are kept: one line; those that fitted stay."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for seed in range(10):
        make_image(50 + seed).save(folder / f"e{seed}.png")
    code = f"""
import fastvlm_mlx.files.disk_space as d
d.free_space = lambda folder: 1 << 40
import os
PAUSE = False
{textwrap.dedent(PREPARE)}
kept = [f for f in store.folder.rglob("*.safetensors")]
partial = [f for f in store.folder.rglob(".*")]
print(len(kept), len(partial))
"""
    with _python(code, disk, folder, prefix=(*small_disk, str(disk))) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    *done, message, counts = out.splitlines()
    print(message)
    assert "features of images: does not fit on its disk" in message
    assert "free some space or" in message and message.count("\n") == 0
    assert counts == f"{len(done)} 0" and len(done) > 1
