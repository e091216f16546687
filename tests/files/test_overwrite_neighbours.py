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

Act = Callable[[bool], None]


@pytest.fixture
def at_rename(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Act], None]:
    """Has a neighbour act right before, or right after, the n-th rename."""
    acts: dict[int, Act] = {}
    count = itertools.count(1)
    rename = os.rename

    def with_neighbour(old: Path, new: Path) -> None:
        act = acts.get(next(count), lambda _: None)
        act(False)
        rename(old, new)
        act(True)

    monkeypatch.setattr(atomic_write.os, "rename", with_neighbour)
    return acts.__setitem__


def test_a_neighbour_may_take_the_place_before_the_old_folder_is_back(
    tmp_path: Path, at_rename: Callable[[int, Act], None]
):
    out = ours(tmp_path / "out")

    def taken(after: bool) -> None:
        if not after:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")

    at_rename(2, taken)  # the new folder's: the neighbour's came, and is gone again
    at_rename(3, lambda after: after or ours(out) and None)  # the old folder's
    with staged_folder(out, overwrite=True, kind=KIND) as partial:
        (partial / "mark").write_text("new")
    assert tree(out) == {"mark": b"new"}
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_not_ours_is_kept_where_a_neighbour_took_its_place(
    tmp_path: Path, at_rename: Callable[[int, Act], None]
):
    out = ours(tmp_path / "out")

    def neighbours(after: bool) -> None:
        if after:
            ours(out)

    at_rename(1, neighbours)
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
