"""Which errors are those of writing an output, and what is said of them."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from fastvlm_mlx.files import disk_space
from fastvlm_mlx.files.disk_space import check_free_space, format_size
from fastvlm_mlx.files.write_failure import write_failure

FREE = 10**9


def failed(error: OSError | RuntimeError, place: Path, free: int = FREE) -> str | None:
    failure = write_failure(error, "out", place, free)
    return None if failure is None else str(failure)


def of(number: int, path: Path | None = None) -> OSError:
    text = os.strerror(number)
    return OSError(number, text) if path is None else OSError(number, text, str(path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_whatever_the_path(tmp_path: Path, number: int):
    place = tmp_path / "not" / "yet"
    for error in (of(number), of(number, Path("/elsewhere"))):
        said = failed(error, place) or ""
        assert said.startswith("out: does not fit on its disk ") and " free);" in said
        assert said.endswith("; free some space or name an output on another disk")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EFBIG])
def test_what_only_writing_fails_with(tmp_path: Path, number: int):
    said = failed(of(number, Path("/elsewhere")), tmp_path / "a")
    reason = os.strerror(number).lower()
    assert said == f"out: cannot be written ({reason}); name another output"


def test_other_errors_by_their_path(tmp_path: Path):
    place = tmp_path / "a"
    denied = "out: cannot be written (permission denied); name another output"
    for path in (place, place / "b" / "c", tmp_path / ".a.partial-1", tmp_path / ".a"):
        assert failed(of(errno.EACCES, path), place) == denied
        assert failed(of(errno.EACCES, path / "x"), place) == denied
    for path in (None, tmp_path, tmp_path / "b", Path("/elsewhere/a")):
        assert failed(of(errno.EACCES, path), place) is None


def test_errors_of_libraries(tmp_path: Path):
    place = tmp_path / "a"
    for text, start in (
        ("[write] Unable to write 9 bytes to file.", "out: does not fit on its disk"),
        ("[save_safetensors] Failed to open file x", "out: cannot be written (cannot"),
    ):
        assert (failed(RuntimeError(text), place) or "").startswith(start)
        assert failed(RuntimeError("of: " + text), place) is None
    assert failed(RuntimeError("[read] Unable to read"), place) is None


@pytest.mark.parametrize(("free", "full"), [(0, True), (65535, True), (65536, False)])
def test_a_library_that_says_nothing(tmp_path: Path, free: int, full: bool):
    said = failed(RuntimeError("it failed"), tmp_path / "a", free)
    assert (said is not None) is full
    assert not full or "does not fit" in (said or "")


def test_errors_of_copying_a_tree(tmp_path: Path):
    place = tmp_path / "a"
    inside, source = str(place / "x"), "/elsewhere/x"
    full = shutil.Error([(source, inside, "[Errno 28] No space left on device")])
    assert "does not fit" in (failed(full, place) or "")
    denied = shutil.Error([(source, inside, "[Errno 13] Permission denied: 'x'")])
    said = "out: cannot be written (permission denied); name another output"
    assert failed(denied, place) == said
    odd = shutil.Error([(source, inside, "something odd")])
    assert failed(odd, place) == (
        "out: cannot be written (something odd); name another output"
    )
    assert failed(shutil.Error([(source, source, "odd")]), place) is None
    assert failed(shutil.Error("no list"), place) is None
    assert failed(shutil.Error([]), place) is None


def test_the_cache_has_a_way_out_of_its_own(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path))
    place = tmp_path / "converted" / "a"
    said = failed(of(errno.EACCES, place), place) or ""
    assert said.endswith("; set FASTVLM_CACHE to a folder that can be written")
    said = failed(of(errno.ENOSPC), place) or ""
    assert said.endswith("or set FASTVLM_CACHE to a folder on another disk")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_900, "999.9 kB"),
        (10**6, "1.0 MB"),
        (999_900_000, "999.9 MB"),
        (10**9, "1.0 GB"),
        (12_340_000_000, "12.3 GB"),
    ],
)
def test_sizes_as_text(size: int, text: str):
    assert format_size(size) == text


def test_what_fits_exactly_fits(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(disk_space, "free_space", lambda folder: 1000)
    check_free_space(tmp_path, 1000)
    with pytest.raises(Exception, match="1.0 kB needed, 1.0 kB free; free some space"):
        check_free_space(tmp_path, 1001)
