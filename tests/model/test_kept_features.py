"""Features on disk: found again, bounded, made anew when damaged, never in the way."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from fastvlm_mlx.model import kept_features as module
from fastvlm_mlx.model.kept_features import (
    KeptFeatures,
    features_identity,
    keep_features,
    kept_files,
)
from tests.support.mock_model import MockModel, make_image

BLOCK = 4096


def some(seed: int, rows: int = 8, dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.random.normal((rows, 32), key=mx.random.key(seed)).astype(dtype)


def kept(folder: Path, limit: int = 1 << 20, name: str = "model") -> KeptFeatures:
    return KeptFeatures(folder, limit, lambda: name)


def names(folder: Path) -> set[str]:
    return {path.stem for _, _, path in kept_files(folder)}


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
def test_what_is_kept_is_found_by_another_one_as_it_was(
    tmp_path: Path, dtype: mx.Dtype
):
    features = some(1, dtype=dtype)
    kept(tmp_path).put("ab12", features)
    found = kept(tmp_path).get("ab12")
    assert found is not None and found.dtype == dtype
    assert mx.array_equal(found, features)
    assert kept(tmp_path).get("ab13") is None
    assert kept(tmp_path, name="other").get("ab12") is None


def test_the_least_recently_used_are_deleted(tmp_path: Path):
    one = kept(tmp_path, limit=5 * 2 * BLOCK)  # a file takes two blocks
    for number, name in enumerate("abcd"):
        one.put(f"{name}0", some(number, rows=40))
        path = one._path(f"{name}0")
        os.utime(path, (number, number))
    assert one.get("a0") is not None  # so b0 is the oldest now
    one.put("e0", some(9, rows=40))
    assert names(tmp_path) == {"a0", "c0", "d0", "e0"}
    assert sum(size for _, size, _ in kept_files(tmp_path)) <= one.limit


def test_what_is_larger_than_the_limit_or_not_finite_is_not_kept(tmp_path: Path):
    one = kept(tmp_path, limit=3 * BLOCK)
    one.put("a0", some(1, rows=100))
    one.put("b0", some(1) * float("inf"))
    assert names(tmp_path) == set()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "folder"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: str):
    one, features = kept(tmp_path), some(3)
    one.put("a0", features)
    path = one._path("a0")
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        flipped = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
        written = {
            "cut": data[:-7],
            "flipped": flipped,
            "empty": b"",
            "text": b"x" * 99,
        }
        path.write_bytes(written[damage])
    assert one.get("a0") is None
    one.put("a0", features)
    again = kept(tmp_path).get("a0")
    if damage == "folder":  # not ours to delete
        assert again is None and path.is_dir()
    else:
        assert again is not None and mx.array_equal(again, features)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    said: list[str] = []
    one = KeptFeatures(tmp_path / "file", 1 << 20, lambda: "model", said.append)
    for name in ("a0", "b0", "c0"):
        assert one.get(name) is None
        one.put(name, some(1))
    assert len(said) == 1 and "\n" not in said[0]
    assert said[0].startswith("features of images are not kept: ")
    assert str(tmp_path / "file") in said[0]


def test_what_killed_processes_left_goes(tmp_path: Path):
    one = kept(tmp_path)
    one.put("a0", some(1))
    left = one._path("a0").with_name(".b0.safetensors.partial-abc-1-2-3")
    left.write_bytes(b"half")
    assert names(tmp_path) == {"a0"} and left.exists()
    os.utime(left, (1, 1))
    assert names(tmp_path) == {"a0"} and not left.exists()


WRITER = """
import sys
from pathlib import Path
import mlx.core as mx
from fastvlm_mlx.model.kept_features import KeptFeatures
said = []
one = KeptFeatures(Path(sys.argv[1]), 40 * 4096, lambda: "model", said.append)
wrong = 0
for turn in range(2):
    for number in range(60):
        expected = mx.random.normal((8, 32), key=mx.random.key(number))
        found = one.get(f"{number:02}")
        if found is None:
            one.put(f"{number:02}", expected)
        else:
            wrong += not mx.array_equal(found, expected)
print(wrong, said)
"""


def test_two_processes_write_read_and_delete_at_once(tmp_path: Path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for process in processes:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and out.split(None, 1) == [b"0", b"[]\n"]
    sizes = [size for _, size, _ in kept_files(tmp_path)]
    assert 0 < sum(sizes) <= 2 * 40 * 4096  # each counts the other's now and then
    counted = kept(tmp_path, limit=40 * 4096)
    counted.put("zz", some(99))
    assert sum(size for _, size, _ in kept_files(tmp_path)) <= counted.limit


def test_a_second_model_of_the_same_weights_encodes_nothing(tmp_path: Path):
    first, second = MockModel(), MockModel()
    for model in (first, second):
        keep_features(model, folder=tmp_path)
    answer = first.ask("What?", make_image(1), max_tokens=6)
    assert second.ask("What?", make_image(1), max_tokens=6) == answer
    assert (first.encoded, second.encoded) == (1, 0)
    # Another question, another resolution, another image.
    second.ask("Where?", make_image(1), max_tokens=2)
    assert second.encoded == 0
    second.ask("Where?", make_image(1), resolution=64, max_tokens=2)
    second.ask("Where?", make_image(2), max_tokens=2)
    assert second.encoded == 2
    third = MockModel()
    keep_features(third, folder=tmp_path)
    third.ask("Where?", make_image(1), resolution=64, tiles=(1, 2), max_tokens=2)
    assert third.encoded == 3
    third.ask("Where?", make_image(2), max_tokens=2)
    assert third.encoded == 3


def test_other_weights_have_other_features(tmp_path: Path):
    model = MockModel()
    before = features_identity(model)
    assert features_identity(MockModel()) == before
    keep_features(model, folder=tmp_path)
    model.ask("What?", make_image(1), max_tokens=2)
    assert model.projector is not None and model.vision_tower is not None
    layer = model.projector.layers[0]
    layer.weight = layer.weight * 1.5
    model.feature_cache.clear()  # as whoever changes weights must
    model.ask("What?", make_image(1), max_tokens=2)
    assert model.encoded == 2 and features_identity(model) != before
    model.vision_tower.set_dtype(mx.float16)
    assert len({before, features_identity(model), features_identity(MockModel())}) == 2


def test_the_cache_of_an_adapter_shares_or_has_its_own(tmp_path: Path):
    model = MockModel()
    keep_features(model, folder=tmp_path)
    shared = model.feature_cache.scoped(images=True)
    own = model.feature_cache.scoped(images=False)
    for scoped, name in ((shared, "ignored"), (own, "tuned")):
        scoped.keep_on_disk(kept(tmp_path, name=name))
        assert scoped.keeps_on_disk
    shared.put("a0", [some(1)])
    own.put("b0", [some(2)])
    own.put(("prefix", "c0"), [some(3)])
    folders = {
        path.stem: path.parent.parent.name for _, _, path in kept_files(tmp_path)
    }
    assert folders == {"a0": features_identity(model), "b0": "tuned"}
    model.feature_cache.clear()
    assert own.get("a0") is None and own.get(("prefix", "c0")) is None
    for scoped, name, seed in ((shared, "a0", 1), (own, "b0", 2)):
        found = scoped.get(name)
        assert found is not None and mx.array_equal(found[0], some(seed))
    own.clear()
    assert len(model.feature_cache) == 0
    assert not MockModel().feature_cache.scoped(images=True).keeps_on_disk


def test_an_encoder_of_another_kind_is_known_by_what_it_says(tmp_path: Path):
    class Encoder:
        projected = True

        def __init__(self, factor: float):
            self.factor = factor
            self.calls = 0

        def __call__(self, pixels: np.ndarray) -> mx.array:
            self.calls += 1
            return mx.full((len(pixels), 4, 32), self.factor * float(pixels.mean()))

    def identity(encoder: Encoder) -> str:
        model = MockModel()
        model.encoder = encoder
        return features_identity(model)

    assert identity(Encoder(1)) == identity(Encoder(1)) != identity(Encoder(2))


def test_threads_share_one(tmp_path: Path):
    one, faults = kept(tmp_path), []

    def work(start: int):
        for number in range(start, start + 20):
            name = f"{number:02}"
            one.put(name, mx.ones((4, 8)) * number)
            found = one.get(name)
            if found is None or float(found[0, 0]) != number:
                faults.append(name)

    threads = [threading.Thread(target=work, args=(10 * n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and len(names(tmp_path)) == 40


def test_the_usual_folder_is_in_the_cache(isolated_cache: Path, model: MockModel):
    assert module.kept_features_folder() == isolated_cache / "image-features"
