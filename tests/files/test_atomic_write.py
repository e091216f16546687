"""Outputs are whole or absent, and nothing else is touched."""

import re
import shutil
from pathlib import Path

import pytest

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.files.atomic_write import staged_file, staged_folder
from fastvlm_mlx.files.disk_space import check_free_space
from fastvlm_mlx.files.own_output import OutputKind
from fastvlm_mlx.files.safetensors_header import check_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


KIND = OutputKind("a thing", re.compile(r"old|new|sub/part"), lambda folder: True)


def test_a_folder_appears_only_when_complete(tmp_path: Path):
    out = tmp_path / "new" / "model"
    with staged_folder(out) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("a")
        assert not out.exists()
        assert re.fullmatch(r"\.model\.partial-\w{6}-\d+-\w{8}-\w{8}", partial.name)
    assert (out / "sub" / "a").read_text() == "a"
    assert names(out.parent) == ["model"]


def test_a_file_appears_only_when_complete(tmp_path: Path):
    out = tmp_path / "a.json"
    with staged_file(out) as partial:
        partial.write_text("{}")
        assert not out.exists()
    assert out.read_text() == "{}"
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]):
    with pytest.raises(error):
        with staged_folder(tmp_path / "deep" / "er" / "model") as partial:
            (partial / "a").write_text("a")
            raise error
    with pytest.raises(error):
        with staged_file(tmp_path / "a") as partial:
            partial.write_text("a")
            raise error
    assert names(tmp_path) == []


def test_an_existing_output_is_kept(tmp_path: Path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "old").write_text("old")
    message = f"{out}: exists already; name another output or pass --overwrite"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        with staged_folder(out, kind=KIND):
            raise AssertionError("not reached")
    with pytest.raises(ValueError):
        with staged_folder(out, overwrite=True, kind=KIND) as partial:
            assert (out / "old").exists()
            (partial / "new").write_text("new")
            raise ValueError
    assert names(out) == ["old"]
    assert names(tmp_path) == ["model"]


def test_overwrite_swaps(tmp_path: Path):
    out = tmp_path / "model"
    for name in ("old", "new"):
        with staged_folder(out, overwrite=True, kind=KIND) as partial:
            (partial / name).touch()
    assert names(out) == ["new"]
    for text in ("old", "new"):
        with staged_file(tmp_path / "a", overwrite=True) as partial:
            partial.write_text(text)
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a", "model"]


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with staged_folder(tmp_path / "link", overwrite=True) as partial:
        (partial / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["new"]


def test_somebody_was_faster(tmp_path: Path):
    out = tmp_path / "model"

    def other() -> None:
        out.mkdir()
        (out / "theirs").touch()

    with pytest.raises(OptionError, match="exists already"):
        with staged_folder(out) as partial:
            (partial / "ours").touch()
            other()
    shutil.rmtree(out)
    with staged_folder(out, first_wins=True) as partial:
        (partial / "ours").touch()
        other()
    assert names(out) == ["theirs"]
    with pytest.raises(OptionError, match="exists already"):
        with staged_file(tmp_path / "a") as partial:
            partial.write_text("ours")
            (tmp_path / "a").write_text("theirs")
    assert (tmp_path / "a").read_text() == "theirs"
    assert names(tmp_path) == ["a", "model"]


def test_source_and_output_stay_apart(tmp_path: Path):
    source = tmp_path / "models" / "source"
    source.mkdir(parents=True)
    cases = {
        source: "is the source itself; name another output",
        source / "out": "lies inside the source; name an output outside it",
        source.parent: "holds the source; name an output beside it",
    }
    for out, message in cases.items():
        with pytest.raises(OptionError, match=f"^{re.escape(f'{out}: {message}')}$"):
            with staged_folder(out, overwrite=True, source=source):
                raise AssertionError("not reached")
    assert names(source) == []


def test_overwrite_does_not_delete_a_home(tmp_path: Path, monkeypatch):
    home = tmp_path / "users" / "me"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    for out in (home, home.parent, Path.cwd()):
        with pytest.raises(OptionError, match=r": holds .*; name another output$"):
            with staged_folder(out, overwrite=True):
                raise AssertionError("not reached")


def test_unusable_outputs(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    long = tmp_path / ("n" * 300)
    cases = [
        (staged_folder, tmp_path / "file", "is a file, not a folder; name another"),
        (staged_file, tmp_path / "folder", "is a folder, not a file; name another"),
        (staged_folder, tmp_path / "file" / "x", r"cannot make its folder \(not a"),
        (staged_folder, long, r"cannot be written \(file name too long\); name"),
        (staged_folder, Path("/"), "has no name to write to; name a new path"),
        (staged_folder, Path("/proc/none/x"), r"cannot make its folder \("),
    ]
    for stage, out, message in cases:
        with pytest.raises(OptionError, match=f"^{re.escape(str(out))}: {message}"):
            with stage(out, overwrite=True):
                raise AssertionError("not reached")
    with pytest.raises(OptionError, match=": nothing was written$"):
        with staged_file(tmp_path / "a"):
            pass
    assert names(tmp_path) == ["file", "folder", "loop"]


def test_errors_of_reading_pass_through(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        with staged_folder(tmp_path / "model"):
            (tmp_path / "source.json").read_text()


def test_messages_name_the_output_not_its_hidden_name(tmp_path: Path):
    out = tmp_path / "model"
    with pytest.raises(OptionError, match=f"^{re.escape(str(out))}: 10000"):
        with staged_folder(out) as partial:
            check_free_space(partial, 10**18)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(out))}/a.safetensors:"):
        with staged_folder(out) as partial:
            (partial / "a.safetensors").touch()
            check_file(partial / "a.safetensors")
