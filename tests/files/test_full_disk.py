"""Disks that are full, read-only or too small: one line, and nothing left behind."""

import errno
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import mlx.core as mx
import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files.atomic_write import staged_file, staged_folder
from fastvlm_mlx.files.cache_dir import cache_dir
from fastvlm_mlx.files.disk_space import check_free_space, format_size
from fastvlm_mlx.files.temporary_names import temporary_folder
from tests.support.paths import ROOT


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def on_small_disk(folder: Path, code: str, options: str) -> str:
    """Run `code` with `folder` as a small tmpfs that vanishes with the process."""
    prefix = ["unshare", "--mount", "--map-root-user"]
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"]).returncode:
        pytest.skip("needs Linux user namespaces to mount a small tmpfs")
    folder.mkdir()
    script = f'mount -t tmpfs none "$1" && {options} exec "$2" -c "$3" "$1" "$4"'
    done = subprocess.run(
        [*prefix, "sh", "-c", script, "-", folder, sys.executable]
        + [textwrap.dedent(code), folder.parent / "large"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_full_disk(tmp_path: Path):
    (tmp_path / "large").mkdir()
    for name in "ab":
        (tmp_path / "large" / name).write_bytes(b"0" * 6_000_000)
    report = on_small_disk(
        tmp_path / "disk",
        """
        import os, shutil, sys
        import mlx.core as mx
        from fastvlm_mlx.files.atomic_write import *
        from fastvlm_mlx.files.disk_space import check_free_space
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
        # copytree tells of each file in a list, in an error without a number.
        attempt("tree", lambda p: shutil.copytree(sys.argv[2], p / "tree"))
        # coremltools' libraries raise this, and say no more.
        def foreign(p):
            with (p / "a").open("wb", 0) as file:
                try:
                    while file.write(b"0" * 4096):
                        pass
                finally:
                    raise RuntimeError("weights")
        attempt("foreign", foreign)
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
        f"{disk}/mlx: does not fit on its disk {disk} (5.2 MB free); {advice}",
        f"{disk}/bytes: does not fit on its disk {disk} (5.2 MB free); {advice}",
        f"{disk}/tree: does not fit on its disk {disk} (5.2 MB free); {advice}",
        f"{disk}/foreign: does not fit on its disk {disk} (5.2 MB free); {advice}",
        f"{disk}/new/model: 6.0 MB needed, 5.2 MB free; "
        "free some space or choose another place",
        "[]",
    ]


def test_read_only_disk(tmp_path: Path):
    report = on_small_disk(
        tmp_path / "disk",
        """
        import sys
        from fastvlm_mlx.files.atomic_write import *
        from fastvlm_mlx.files.disk_space import check_free_space
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


def test_the_cache_is_named_by_its_variable(tmp_path: Path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path / "file" / "cache"))
    advice = "; set FASTVLM_CACHE to a folder that can be written"
    for stage in (staged_folder, staged_file):
        with pytest.raises(OptionError, match=f"cannot make its folder .*{advice}$"):
            with stage(cache_dir() / "converted" / "x"):
                raise AssertionError("not reached")
    with pytest.raises(OptionError, match=r"cannot be made \(not a .*" + advice):
        with temporary_folder(cache_dir() / "unpacked", "x"):
            raise AssertionError("not reached")
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path))
    full = OSError(errno.ENOSPC, "No space left on device")
    advice = "; free some space or set FASTVLM_CACHE to a folder on another disk"
    for stage in (staged_folder, staged_file):
        with pytest.raises(
            OptionError, match=f"/x: does not fit on its disk .*{advice}"
        ):
            with stage(tmp_path / "converted" / "x"):
                raise full
    with pytest.raises(OptionError, match=f"needed, .* free{advice}$"):
        check_free_space(tmp_path / "unpacked", 10**18)
    assert names(tmp_path) == ["file"]


def test_other_errors_keep_their_kind(tmp_path: Path):
    for error in (RuntimeError("a shape"), shutil.Error([("a", "b", "unclear")])):
        with pytest.raises(type(error)):
            with staged_folder(tmp_path / "model"):
                raise error
    inside = [
        ("a", str(tmp_path / ".model.x" / "b"), "[Errno 13] Permission denied: b")
    ]
    with pytest.raises(OptionError, match=r"model: cannot be written \(permission den"):
        with staged_folder(tmp_path / "model"):
            raise shutil.Error(inside)


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
