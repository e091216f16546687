"""Conversions in the cache: made once, and anew when they are damaged."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx import load
from fastvlm_mlx.app.info.facts import gather
from fastvlm_mlx.errors import DownloadError, OptionError
from fastvlm_mlx.hub import conversion_record
from fastvlm_mlx.hub.conversion_record import RECORD, recorded_fault, set_aside
from fastvlm_mlx.model_folder import converted
from tests.support import checkpoints
from tests.support.checkpoints import Spec
from tests.support.hub_server import Hub, Repository, empty_machine

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A source and the cache that holds its conversion."""
    place = tmp_path_factory.mktemp("made")
    checkpoints.write(place / "source", Spec())
    (place / "source" / "LICENSE").write_text("research only")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTVLM_CACHE", str(place / "cache"))
        converted(place / "source")
        yield place


@pytest.fixture
def folder(made: Path) -> Path:
    """The whole conversion."""
    return converted(made / "source")


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda f: (f / name).write_bytes(change((f / name).read_bytes()))


def dangle(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parent / "nowhere")


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def without_record(damage: Callable[[Path], Any]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        (folder / RECORD).unlink()
        damage(folder)

    return both


def remove(*names: str) -> Callable[[Path], Any]:
    return lambda f: [(f / name).unlink() for name in names]


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    **{f"no {n}": (remove(n), f"{n} is missing") for n in ("config.json", WEIGHTS)},
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json is missing"),
    "a licence is missing": (remove("LICENSE"), "LICENSE is missing"),
    "an empty config": (rewrite("config.json", lambda _: b""), "has 0 bytes instead"),
    "an older config": (
        rewrite("config.json", lambda d: d.replace(b'version": 1', b'version": 0')),
        "config.json has changed",
    ),
    "a changed tokenizer": (
        rewrite("tokenizer.json", lambda d: d[:-9] + b"\0" * 9),
        "tokenizer.json has changed",
    ),
    "cut weights": (rewrite(WEIGHTS, lambda d: d[:-9]), "bytes instead of"),
    "zeros as weights": (rewrite(WEIGHTS, lambda d: bytes(len(d))), "damaged or incom"),
    "another file": (
        lambda f: (f / "generation_config.json").write_text("{}"),
        "generation_config.json does not belong to it",
    ),
    "an empty folder": (
        lambda f: shutil.rmtree(f) or f.mkdir(),
        "config.json: no such file",
    ),
    "a file": (replace_by_file, "it is no folder"),
    "a dangling link": (dangle, "it is no folder"),
    **{
        f"unrecorded: {name}": (without_record(damage), fault)
        for name, damage, fault in (
            ("no config", remove("config.json"), "config.json: no such file"),
            ("no weights", remove(WEIGHTS), "no weights there"),
            ("cut weights", rewrite(WEIGHTS, lambda d: d[:-9]), "damaged or incom"),
            ("no tokenizer", remove("tokenizer.json"), "no tokenizer.json"),
            (
                "another format",
                rewrite("config.json", lambda _: b'{"model_type": "llava_qwen2"}'),
                "its config.json is of another format",
            ),
            (
                "an older version",
                rewrite("config.json", lambda _: b'{"model_type": "fastvlm-mlx"}'),
                "format_version None is not 1",
            ),
        )
    },
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_conversion_is_made_anew(
    made: Path, folder: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    whole = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != RECORD}
    damage, fault = DAMAGE[name]
    damage(folder)
    assert converted(made / "source") == folder
    told = capsys.readouterr().err
    assert told.startswith(f"{made / 'source'}: its conversion in the cache is damaged")
    assert fault in told and told.endswith("); making it anew\n")
    assert told.count("\n") == 1
    assert {
        p.name: p.read_bytes() for p in folder.iterdir() if p.name != RECORD
    } == whole
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    # Once: nothing is said or done the next time.
    config = (folder / "config.json").stat().st_mtime_ns
    assert converted(made / "source") == folder
    assert capsys.readouterr().err == ""
    assert (folder / "config.json").stat().st_mtime_ns == config


def test_a_whole_conversion_without_a_record_is_kept(made: Path, folder: Path):
    for content in (None, "", "[]", '{"version": 9}', '{"version": 1, "files": 7}'):
        (folder / RECORD).unlink()
        if content is not None:
            (folder / RECORD).write_text(content)
        before = (folder / WEIGHTS).stat().st_mtime_ns
        assert converted(made / "source") == folder
        assert (folder / WEIGHTS).stat().st_mtime_ns == before
        assert recorded_fault(folder) is None
    (folder / "notes.txt").touch()  # somebody's own, which nothing reads
    assert recorded_fault(folder) is None
    (folder / "notes.txt").unlink()


def test_what_was_damaged_stays_if_no_other_can_be_made(
    made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    (folder / "tokenizer.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(
            "fastvlm_mlx.convert.to_mlx.convert",
            lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            converted(made / "source")
    assert (folder / WEIGHTS).exists() and not (folder / "tokenizer.json").exists()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    assert converted(made / "source") == folder and (folder / "tokenizer.json").exists()


def test_two_processes_that_mend_one_conversion(tmp_path: Path):
    place = tmp_path / "model"
    place.mkdir()
    with set_aside(place):
        with set_aside(place):  # it is gone already
            place.mkdir()
        assert place.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("size", [8, 9])
def test_large_files_are_known_by_their_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    monkeypatch.setattr(conversion_record, "_MAX_SUMMED", 8)
    (tmp_path / "data").write_bytes(bytes(size))
    conversion_record.write_record(tmp_path)
    (tmp_path / "data").write_bytes(b"\1" * size)
    assert recorded_fault(tmp_path) == ("data has changed" if size == 8 else None)


@pytest.mark.parametrize("place", ["/proc/nope", "/dev/null"])
def test_a_cache_that_cannot_be_written(
    made: Path, monkeypatch: pytest.MonkeyPatch, place: str
):
    monkeypatch.setenv("FASTVLM_CACHE", place)
    with pytest.raises(OptionError) as caught:
        load(made / "source")
    line = str(caught.value)
    assert line.startswith(
        f"{made / 'source'}: its conversion cannot be kept in {place}"
    )
    assert line.endswith(
        "; set FASTVLM_CACHE to a folder with room that can be written"
    )


def test_a_cache_that_cannot_be_written_is_named_before_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with Hub({"them/it": [Repository({"model.safetensors": b"x"})]}) as hub:
        empty_machine(monkeypatch, tmp_path, hub.url)
        monkeypatch.setenv("FASTVLM_CACHE", "/proc/nope")
        with pytest.raises(
            OptionError, match="^them/it: its conversion cannot be kept"
        ):
            converted("them/it")
        assert hub.requests == []


def test_info_does_not_need_a_whole_conversion(made: Path, folder: Path):
    before = gather(str(made / "source"))
    (folder / "config.json").write_text("")
    assert gather(str(made / "source")) == before
    (folder / "config.json").unlink()
    assert gather(str(made / "source")) == before
    converted(made / "source")


def test_a_conversion_that_outlived_its_snapshot(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    files = {f.name: f.read_bytes() for f in (made / "source").iterdir()}
    with Hub({"them/it": [Repository(files)]}) as hub:
        empty_machine(monkeypatch, tmp_path, hub.url)
        folder = converted("them/it")
        shutil.rmtree(tmp_path / "hf")
        hub.requests.clear()
        assert converted("them/it") == folder and hub.requests == []
        (folder / WEIGHTS).write_bytes(bytes((folder / WEIGHTS).stat().st_size))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(DownloadError, match="not in the cache, and HF_HUB_OFFLINE"):
            converted("them/it")
        assert (folder / "config.json").exists()  # it was put back
        monkeypatch.delenv("HF_HUB_OFFLINE")
        capsys.readouterr()
        assert converted("them/it") == folder
        assert capsys.readouterr().err.count("is damaged (") == 1
        assert WEIGHTS in hub.fetched()
        assert os.listdir(folder.parent) == [folder.name]
        if session := __import__("huggingface_hub").close_session:
            session()
