"""What a kill leaves behind, and who clears it away."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from fastvlm_mlx.files.atomic_write import staged_folder
from fastvlm_mlx.files.temporary_names import (
    partial_name,
    remove_stale,
    temporary_folder,
)
from tests.support.paths import ROOT


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kill_leaves_nothing_that_looks_finished(tmp_path: Path):
    out = tmp_path / "model"
    code = """
        import sys, time
        from fastvlm_mlx.files.atomic_write import staged_folder
        with staged_folder(sys.argv[1]) as partial:
            (partial / "config.json").write_text("{}")
            print("ready", flush=True)
            time.sleep(60)
        """
    for number, left in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, 1)):
        process = start(code, out)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=10)
        assert process.returncode != 0
        assert not out.exists()
        assert len(names(tmp_path)) == left
    with staged_folder(out):
        assert len(names(tmp_path)) == 1  # the killed one's is gone
    assert names(tmp_path) == ["model"]


def test_stale_partials(tmp_path: Path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = partial_name("model")
    host = here.split("-")[1]
    elsewhere = ".model.partial-000000-1-00000000"
    of_dead = f".model.partial-{host}-{dead.pid}-00000000"
    set_aside = f".model.replaced-{host}-{dead.pid}-00000000"
    for name in (here, elsewhere, of_dead, set_aside, ".model.partial-x"):
        (tmp_path / name).mkdir()
    remove_stale(tmp_path, "model")
    kept = [here, elsewhere, ".model.partial-x", "model"]
    assert names(tmp_path) == sorted(kept)


def test_temporary_folder(tmp_path: Path):
    with pytest.raises(ValueError):
        with temporary_folder(tmp_path / "cache", "a.zip") as folder:
            (folder / "a").touch()
            raise ValueError
    assert names(tmp_path / "cache") == []


def test_age_settles_reused_process_ids(tmp_path: Path, monkeypatch):
    (tmp_path / partial_name("model")).mkdir()
    remove_stale(tmp_path, "model")
    assert len(names(tmp_path)) == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 24 * 60 * 60)
    remove_stale(tmp_path, "model")
    assert names(tmp_path) == []
