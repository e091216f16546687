"""Models whose stored weights are mapped on a Linux CPU: the same answers, and less."""

import gc
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import pytest
from PIL import Image

from fastvlm_mlx import device
from fastvlm_mlx.adapters.apply import attach
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.cpu import kernels, mapped_weights
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.fastvlm import FastVLM, load
from fastvlm_mlx.model import language, mapped_layers, parameters
from fastvlm_mlx.model.mapped_layers import ENCODER_FILE
from fastvlm_mlx.model.stored_layers import ENCODER
from fastvlm_mlx.model_folder import converted, is_whole
from fastvlm_mlx.weights.weight_files import weight_files
from tests.support import checkpoints
from tests.support.checkpoints import Spec
from tests.support.mapped_files import resident
from tests.support.small_adapters import flat, make_adapter


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux" or device.on_gpu() or kernels.library() is None:
        pytest.skip("no compiler or no OpenBLAS for the CPU kernels")
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mapped") / "source"
    return checkpoints.write(place, Spec(hidden=64, dtype="bfloat16"))


@pytest.fixture
def cached(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A conversion in a cache of its own."""
    kernels._path()  # known: that of the other cache is used
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path / "cache"))
    return converted(source)


@pytest.fixture(scope="module")
def own(source: Path) -> Path:
    """Model folders that are a user's: as stored, and with 4 bits."""
    to_mlx.convert(source, source.parent / "bfloat16")
    to_mlx.convert(source, source.parent / "4bit", q_bits=4, q_group_size=32)
    return source.parent


def unmapped(folder: Path) -> FastVLM:
    """The model with all of its weights read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameters, "map_kept", lambda kept, *rest: kept)
        model = load(folder)
    assert not mapped(model)
    return model


def mapped(model: FastVLM) -> dict[str, mx.array]:
    known = flat(model)
    return {n: a for n, a in known.items() if mapped_weights.address(a) is not None}


IMAGE = Image.effect_noise((128, 128), 80).convert("RGB")


def said(model: FastVLM) -> list[list[float]]:
    """Numbers that every part of the model has a share in."""
    features = model.encode_image(IMAGE)[0]
    prompt = model.embed([[1, 2, 3], features, [4]])
    cache = language.make_cache(model.language_model)
    steps = [model.logits(piece, cache) for piece in (prompt, model.embed([[5]]))]
    return cast(Any, mx.concatenate(steps).tolist())


def evaluated(arrays: dict[str, mx.array]) -> bool:
    """Whether any was evaluated before; now all are."""
    # Of this encoder's gates the kernels take no width.
    arrays = {name: array for name, array in arrays.items() if ".se." not in name}
    gc.collect()
    before = mx.get_active_memory()
    mx.eval(arrays)
    size = sum(array.nbytes for array in arrays.values())
    return mx.get_active_memory() - before < size


def names_of(model: FastVLM, dtype: mx.Dtype, prefix: str) -> set[str]:
    return {
        name
        for name, array in flat(model).items()
        if array.dtype == dtype and name.startswith(prefix)
    }


def test_a_conversion_answers_the_same_and_reads_nothing(cached: Path):
    model = load(cached)
    found = mapped(model)
    assert found.keys() == names_of(model, mx.bfloat16, "")
    assert {name.partition(".")[0] for name in found} > {"vision_tower"}
    assert said(model) == said(unmapped(cached))
    assert not evaluated(found)
    assert said(model) == said(unmapped(cached))


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [("bfloat16", [mx.bfloat16]), ("4bit", [mx.uint32, mx.bfloat16])],
)
def test_a_users_folder(own: Path, name: str, dtypes: list[mx.Dtype]):
    listed = sorted(path.name for path in (own / name).iterdir())
    model = load(own / name)
    found = mapped(model)
    for dtype in dtypes:
        assert found.keys() >= names_of(model, dtype, "language_model.") > set()
    assert said(model) == said(unmapped(own / name))
    assert not evaluated(found)
    assert sorted(path.name for path in (own / name).iterdir()) == listed


def test_what_does_not_use_them_as_stored_reads_them(cached: Path, monkeypatch):
    assert not mapped(load(cached, dtype="float32"))
    assert not (cached / ENCODER_FILE).exists()
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert not mapped(load(cached))
    assert not (cached / ENCODER_FILE).exists()


def test_the_encoders_file_is_no_part_of_the_conversion(cached: Path):
    before = weight_files(cached)
    load(cached)
    assert (cached / ENCODER_FILE).is_file() and is_whole(cached)
    assert weight_files(cached) == before
    written = (cached / ENCODER_FILE).stat().st_mtime_ns
    load(cached)
    assert (cached / ENCODER_FILE).stat().st_mtime_ns == written
    assert not list(cached.glob("*.partial-*"))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size - 1),
    "header": lambda file: file.write_bytes(b"x" * 100),
    "folder": lambda file: (file.unlink(), file.mkdir()),
    "of others": lambda file: shutil.copy(file.parent / "model.safetensors", file),
    "stale": lambda file: os.utime(file.parent / "model.safetensors"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_the_encoder(cached: Path, damage: str):
    wanted = said(load(cached))
    file = cached / ENCODER_FILE
    DAMAGES[damage](file)
    model = load(cached)
    assert said(model) == wanted
    assert file.is_dir() or mapped(model).keys() == names_of(model, mx.bfloat16, "")


def test_the_encoders_file_cannot_be_written(cached: Path, monkeypatch):
    def full(*rest: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped_layers, "write_aligned", full)
    model = load(cached)
    assert said(model) == said(unmapped(cached))
    stored = names_of(model, mx.bfloat16, "") - names_of(model, mx.bfloat16, ENCODER)
    assert mapped(model).keys() >= stored
    assert sorted(cached.glob(".*")) == [cached / ".conversion.json"]


def test_memory_is_given_back_around_an_encode(cached: Path, monkeypatch):
    model, given = load(cached), []
    said(model)
    # The last to be used was the language model.
    assert resident(cached / ENCODER_FILE) == 0
    assert sum(resident(file) or 0 for file in weight_files(cached))
    release = mapped_weights.release
    noted = lambda arrays: given.append([*arrays]) or release(given[-1])  # noqa: E731
    monkeypatch.setattr(mapped_weights, "release", noted)
    mx.eval(model.encode_features(mx.zeros((1, 128, 128, 3))))
    head, encoder = given
    assert any(array is model.embed_tokens.weight for array in head)
    assert len(encoder) == len(flat(model.vision_tower))
    assert resident(cached / ENCODER_FILE) == 0


def test_memory_is_given_back_after_a_long_prompt(cached: Path, monkeypatch):
    model, given = load(cached), []
    monkeypatch.setattr(kernels, "release_memory", lambda: given.append(True))
    for length, times in ((1, 0), (64, 0), (65, 1)):
        cache = language.make_cache(model.language_model)
        model.logits(model.embed([[1] * length]), cache)
        assert len(given) == times


def test_a_misaligned_file_is_read(own: Path, tmp_path: Path):
    folder = tmp_path / "misaligned"
    shutil.copytree(own / "bfloat16", folder)
    (file,) = weight_files(folder)
    data = file.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = (end - 7).to_bytes(8, "little") + data[8:end] + b" "
    file.write_bytes(header + data[end:])
    model = load(folder)
    assert not mapped(model)
    assert said(model) == said(load(own / "bfloat16"))


def test_a_file_that_is_cut_before_it_is_mapped(own: Path, tmp_path: Path, monkeypatch):
    shutil.copytree(own / "bfloat16", tmp_path / "model")
    map_tensors = mapped_weights.map_tensors

    def cut(file: Path, names: Any) -> dict[str, mx.array]:
        os.truncate(file, 20_000)
        return map_tensors(file, names)

    monkeypatch.setattr(mapped_weights, "map_tensors", cut)
    with pytest.raises(CheckpointError, match="were cut or replaced while they were"):
        load(tmp_path / "model")


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_an_adapter_on_top_from_another_thread(cached: Path, method: str):
    model, read = load(cached), unmapped(cached)
    spec = AdapterSpec(method, rank=2, scale=2.0)
    adapter = make_adapter(read, spec)
    found, answers = len(mapped(model)), []

    def adapt() -> None:
        attach(model, adapter)
        answers.append(said(model))

    thread = threading.Thread(target=adapt)
    thread.start()
    thread.join()
    attach(read, adapter)
    assert answers == [said(read)]
    assert len(mapped(model)) == found
    if method == "lora":
        assert not evaluated(mapped(model))


def test_weights_of_a_full_adapter_are_not_found(cached: Path):
    model, read = load(cached), unmapped(cached)
    adapter = make_adapter(read, AdapterSpec("full", num_layers=1))
    said(model)  # the decoder's kernel knows the old ones
    attach(model, adapter)
    attach(read, adapter)
    assert said(model) == said(read)
    replaced = set(adapter.tensors)
    assert not replaced & {n.removeprefix("language_model.") for n in mapped(model)}
    assert not evaluated(mapped(model))


def test_without_the_kernels_any_thread_gets_the_same(cached: Path):
    model, logits = load(cached), []
    ids = mx.array([[1, 2, 3]])
    wanted = model(ids)

    def ask() -> None:
        with kernels.switched_off():
            logits.append(model(ids))
            mx.eval(logits)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert mx.allclose(logits[0], wanted, rtol=1e-3, atol=1e-4)
