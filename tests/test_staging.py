"""Outputs are whole or absent: failures, kills, full and read-only disks."""

import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.convert.partial import partial_name, remove_stale, temporary_folder
from fastvlm_mlx.convert.staging import (
    check_free_space,
    format_size,
    staged_file,
    staged_folder,
)
from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.safetensors_file import check_file

ROOT = Path(__file__).parent.parent


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


def on_small_disk(folder: Path, code: str, options: str) -> str:
    """Run `code` with `folder` as a small tmpfs that vanishes with the process."""
    prefix = ["unshare", "--mount", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("needs Linux user namespaces to mount a small tmpfs")
    folder.mkdir()
    script = f'mount -t tmpfs none "$1" && {options} exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*prefix, "sh", "-c", script, "-", folder, sys.executable]
        + [textwrap.dedent(code)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_folder_appears_only_when_complete(tmp_path: Path):
    out = tmp_path / "new" / "model"
    with staged_folder(out) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("a")
        assert not out.exists()
        assert re.fullmatch(r"\.model\.partial-\w{6}-\d+-\w{8}", partial.name)
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
        with staged_folder(out):
            raise AssertionError("not reached")
    with pytest.raises(ValueError):
        with staged_folder(out, overwrite=True) as partial:
            assert (out / "old").exists()
            (partial / "new").write_text("new")
            raise ValueError
    assert names(out) == ["old"]
    assert names(tmp_path) == ["model"]


def test_overwrite_swaps(tmp_path: Path):
    out = tmp_path / "model"
    for name in ("old", "new"):
        with staged_folder(out, overwrite=True) as partial:
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


def test_kill_leaves_nothing_that_looks_finished(tmp_path: Path):
    out = tmp_path / "model"
    code = """
        import sys, time
        from fastvlm_mlx.convert.staging import staged_folder
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


def test_full_disk(tmp_path: Path):
    report = on_small_disk(
        tmp_path / "disk",
        """
        import os, sys
        import mlx.core as mx
        from fastvlm_mlx.convert.staging import *
        from fastvlm_mlx.errors import FastVLMError

        def attempt(name, write):
            try:
                with staged_folder(sys.argv[1] + "/" + name) as partial:
                    write(partial)
            except FastVLMError as error:
                print(error)

        array = mx.zeros((1024, 1024))
        attempt("mlx", lambda p: mx.save_safetensors(str(p / "a.safetensors"),
                                                      {"a": array, "b": array}))
        attempt("bytes", lambda p: (p / "a").write_bytes(b"0" * 6_000_000))
        try:
            check_free_space(sys.argv[1] + "/new/model", 6_000_000)
        except FastVLMError as error:
            print(error)
        print(os.listdir(sys.argv[1]))
        """,
        'mount -o remount,size=5m "$1" &&',
    )
    disk = tmp_path / "disk"
    advice = "free some space or name an output on another disk"
    assert report.splitlines() == [
        f"{disk}/mlx: does not fit on its disk (5.2 MB free); {advice}",
        f"{disk}/bytes: does not fit on its disk (5.2 MB free); {advice}",
        f"{disk}/new/model: 6.0 MB needed, 5.2 MB free; "
        "free some space or choose another place",
        "[]",
    ]


def test_read_only_disk(tmp_path: Path):
    report = on_small_disk(
        tmp_path / "disk",
        """
        import sys
        from fastvlm_mlx.convert.staging import *
        from fastvlm_mlx.errors import FastVLMError
        for name in ("model", "new/model"):
            try:
                with staged_folder(sys.argv[1] + "/" + name):
                    pass
            except FastVLMError as error:
                print(error)
        """,
        'mount -o remount,ro "$1" &&',
    )
    reason = "(read-only file system); name another output"
    assert report.splitlines() == [
        f"{tmp_path}/disk/model: cannot be written {reason}",
        f"{tmp_path}/disk/new/model: cannot make its folder {reason}",
    ]


def test_mlx_cannot_open(tmp_path: Path):
    with pytest.raises(OptionError, match=r"cannot be written \(cannot be opened\)"):
        with staged_folder(tmp_path / "model") as partial:
            path = partial / "missing" / "a.safetensors"
            mx.save_safetensors(str(path), {"a": mx.zeros(1)})


def test_messages_name_the_output_not_its_hidden_name(tmp_path: Path):
    out = tmp_path / "model"
    with pytest.raises(OptionError, match=f"^{re.escape(str(out))}: 10000"):
        with staged_folder(out) as partial:
            check_free_space(partial, 10**18)
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(out))}/a.safetensors:"):
        with staged_folder(out) as partial:
            (partial / "a.safetensors").touch()
            check_file(partial / "a.safetensors")


def test_free_space(tmp_path: Path):
    check_free_space(tmp_path / "not" / "yet", 1)
    with pytest.raises(OptionError, match=r"1000000000\.0 GB needed, .* free; free"):
        check_free_space(tmp_path, 10**18)


def test_format_size():
    sizes = [999, 1_000, 5_200_000, 1_234_567_890]
    assert [format_size(s) for s in sizes] == [
        "999 bytes",
        "1.0 kB",
        "5.2 MB",
        "1.2 GB",
    ]


def test_age_settles_reused_process_ids(tmp_path: Path, monkeypatch):
    (tmp_path / partial_name("model")).mkdir()
    remove_stale(tmp_path, "model")
    assert len(names(tmp_path)) == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 24 * 60 * 60)
    remove_stale(tmp_path, "model")
    assert names(tmp_path) == []
