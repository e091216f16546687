"""Other programs write to the same folder while it is overwritten."""

import errno
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files import atomic_write
from fastvlm_mlx.files.atomic_write import staged_folder
from tests.files.test_overwrite import KIND, ours, tree

Acts = dict[tuple[str, int], Callable[[], object]]


@pytest.fixture
def neighbour(monkeypatch: pytest.MonkeyPatch) -> Acts:
    """What happens "before" or "after" the n-th rename."""
    acts: Acts = {}
    count = itertools.count(1)
    rename = os.rename

    def among_neighbours(old: Path, new: Path) -> None:
        number = next(count)
        acts.get(("before", number), int)()
        rename(old, new)
        acts.get(("after", number), int)()

    monkeypatch.setattr(atomic_write.os, "rename", among_neighbours)
    return acts


def test_the_place_is_taken_before_the_old_folder_is_back(
    tmp_path: Path, neighbour: Acts
):
    out = ours(tmp_path / "out")

    def is_taken() -> None:  # by a neighbour, whose folder is gone again
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    neighbour["before", 2] = is_taken  # the new folder's
    neighbour["before", 3] = lambda: ours(out)  # the old folder's
    with staged_folder(out, overwrite=True, kind=KIND) as partial:
        (partial / "mark").write_text("new")
    assert tree(out) == {"mark": b"new"}
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_not_ours_is_kept_where_its_place_is_taken(
    tmp_path: Path, neighbour: Acts
):
    out = ours(tmp_path / "out")
    neighbour["after", 1] = lambda: ours(out)
    with pytest.raises(OptionError, match="holds diary.txt, which is not part"):
        with staged_folder(out, overwrite=True, kind=KIND) as partial:
            (partial / "mark").write_text("new")
            (out / "diary.txt").write_text("Monday")
    assert tree(out) == tree(ours(tmp_path / "like"))
    (kept,) = tmp_path.glob("out.*")
    assert (kept / "diary.txt").read_text() == "Monday"
    assert not list(tmp_path.glob(".*"))


def test_two_that_overwrite_at_once_both_end_well(tmp_path: Path):
    out = ours(tmp_path / "out")
    together = threading.Barrier(4)
    failures = []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                with staged_folder(out, overwrite=True, kind=KIND) as partial:
                    (partial / "mark").write_text("ours")
                    (partial / "weights").write_text(str(number))
                    together.wait(20)
        except BaseException as fault:
            failures.append(fault)
            together.abort()

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(tree(out)) == {"mark", "weights"}
    assert os.listdir(tmp_path) == ["out"]
