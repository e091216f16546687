"""The folder of an adapter: written whole, read again, refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.adapters.files import (
    Adapter,
    read_adapter,
    update_adapter,
    write_adapter,
)
from fastvlm_mlx.adapters.spec import AdapterSpec
from fastvlm_mlx.errors import AdapterError, CheckpointError, OptionError
from tests.support.mock_model import MockModel
from tests.support.small_adapters import make_adapter


@pytest.fixture(scope="module")
def adapter() -> Adapter:
    return make_adapter(MockModel(), AdapterSpec(rank=3, projector=True))


@pytest.fixture(scope="module")
def written(adapter: Adapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "flags"
    write_adapter(folder, adapter)
    return folder


def assert_same(given: Adapter, wanted: Adapter) -> None:
    assert given.spec == wanted.spec
    assert given.base == wanted.base
    for a, b in (
        (given.tensors, wanted.tensors),
        (given.projector or {}, wanted.projector or {}),
    ):
        assert a.keys() == b.keys()
        assert all(mx.array_equal(a[name], b[name]) for name in b)


def test_it_is_read_as_it_was_written(adapter: Adapter, written: Path):
    given = read_adapter(written)
    assert_same(given, adapter)
    assert given.folder == written
    assert given.nbytes == adapter.nbytes > 0


def test_the_files_are_mlx_lms(adapter: Adapter, written: Path):
    assert {file.name for file in written.iterdir()} == {
        "adapter_config.json",
        "adapters.safetensors",
        "projector.safetensors",
    }
    config = json.loads((written / "adapter_config.json").read_text())
    assert config["fine_tune_type"] == "lora"
    assert config["num_layers"] == -1
    assert config["lora_parameters"]["rank"] == 3
    tensors = mx.load(str(written / "adapters.safetensors"))
    assert set(tensors) == set(adapter.tensors)


def test_without_a_projector_there_is_no_file_of_one(tmp_path: Path):
    adapter = make_adapter(MockModel(), AdapterSpec(rank=3))
    write_adapter(tmp_path / "a", adapter)
    assert not (tmp_path / "a" / "projector.safetensors").exists()
    assert read_adapter(tmp_path / "a").projector is None


def test_an_existing_folder_is_not_replaced_unasked(
    adapter: Adapter, written: Path, tmp_path: Path
):
    folder = shutil.copytree(written, tmp_path / "flags")
    with pytest.raises(OptionError, match="flags: exists already"):
        write_adapter(folder, adapter)
    write_adapter(folder, make_adapter(MockModel(), AdapterSpec()), overwrite=True)
    assert read_adapter(folder).spec.rank == 16


def test_a_folder_with_something_else_is_never_replaced(
    adapter: Adapter, written: Path, tmp_path: Path
):
    folder = shutil.copytree(written, tmp_path / "flags")
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(OptionError, match="holds thesis.txt, which is not part of an"):
        write_adapter(folder, adapter, overwrite=True)
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_config.json").write_text("{}")
    with pytest.raises(OptionError, match="was not written by fastvlm-mlx"):
        write_adapter(other, adapter, overwrite=True)


def test_an_update_leaves_other_files_alone(written: Path, tmp_path: Path):
    folder = shutil.copytree(written, tmp_path / "flags")
    (folder / "state").mkdir()
    other = make_adapter(MockModel(), AdapterSpec(rank=5))
    update_adapter(folder, other)
    assert_same(read_adapter(folder), other)
    assert (folder / "state").is_dir()


def test_companions_lie_beside_it(adapter: Adapter, tmp_path: Path):
    licence = tmp_path / "LICENSE_MODEL"
    licence.write_text("for research")
    write_adapter(tmp_path / "a", adapter, companions=[licence])
    assert (tmp_path / "a" / licence.name).read_text() == "for research"


def test_a_full_disk_leaves_nothing(
    adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_args, **_options):
        raise RuntimeError("[write] Unable to write 4096 bytes to file.")

    monkeypatch.setattr(mx, "save_safetensors", fail)
    with pytest.raises(OptionError, match="does not fit on its disk"):
        write_adapter(tmp_path / "a", adapter)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format(adapter: Adapter, tmp_path: Path):
    with pytest.raises(AdapterError, match="format 'gguf': unknown; use mlx or peft"):
        write_adapter(tmp_path / "a", adapter, format="gguf")
    assert not list(tmp_path.iterdir())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def replace(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def spoil(file: Path) -> None:
    tensors = mx.load(str(file))
    assert isinstance(tensors, dict)
    name = min(tensors)
    tensors[name] = tensors[name] * float("nan")
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "no such folder; give the folder of an adapter, which has"),
    (lambda f: (f / "adapter_config.json").unlink(), "has no adapter_config.json; gi"),
    (
        lambda f: (f / "adapter_config.json").rename(f / "config.json"),
        "is a model, not an adapter",
    ),
    (
        lambda f: (f / "adapter_config.json").write_text("{"),
        "adapter_config.json: not valid JSON",
    ),
    (
        lambda f: (f / "adapter_config.json").write_text("[]"),
        "adapter_config.json: holds a list, not an object",
    ),
    (
        lambda f: replace(f / "adapter_config.json", fine_tune_type="ia3"),
        "flags: adapter: fine_tune_type is 'ia3'",
    ),
    (
        lambda f: replace(f / "adapter_config.json", fastvlm_mlx={"base": {"name": 1}}),
        "flags: adapter_config.json: what it says about its model is damaged",
    ),
    (
        lambda f: (f / "adapters.safetensors").unlink(),
        "flags: has no adapters.safetensors, which its adapter_config.json promises",
    ),
    (
        lambda f: (f / "projector.safetensors").unlink(),
        "flags: has no projector.safetensors, which its",
    ),
    (
        lambda f: cut(f / "adapters.safetensors"),
        "adapters.safetensors: damaged or incomplete",
    ),
    (
        lambda f: (f / "adapters.safetensors").write_bytes(b""),
        "adapters.safetensors: damaged or incomplete .the file is empty",
    ),
    (
        lambda f: (f / "adapters.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
        ),
        "adapters.safetensors: is a git-lfs pointer",
    ),
    (
        lambda f: spoil(f / "adapters.safetensors"),
        "holds numbers that are not finite; train it again",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_folder_is_refused_by_name(
    damage: Callable[[Path], object], message: str, written: Path, tmp_path: Path
):
    folder = shutil.copytree(written, tmp_path / "flags")
    damage(folder)
    with pytest.raises((AdapterError, CheckpointError), match=message) as caught:
        read_adapter(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_file_in_place_of_the_folder(written: Path):
    with pytest.raises(AdapterError, match="is no folder; give the folder of an adapt"):
        read_adapter(written / "adapters.safetensors")
