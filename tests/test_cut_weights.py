"""Weights that another program cuts between their check and their reading."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fastvlm_mlx import fastvlm
from fastvlm_mlx.convert import to_mlx
from fastvlm_mlx.convert.source import checkpoint
from fastvlm_mlx.errors import CheckpointError
from fastvlm_mlx.weights import weight_files
from tests.support import checkpoints
from tests.support.checkpoints import Spec

CUT = "weights were cut or replaced while they were read; run it again once they are"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.write(tmp_path_factory.mktemp("cut") / "source", Spec())


@pytest.fixture
def cut_after_check(monkeypatch: pytest.MonkeyPatch) -> None:
    load_tensors = weight_files.load_tensors

    def load_and_cut(file: Path) -> weight_files.Tensors:
        tensors = load_tensors(file)
        os.truncate(file, 20_000)
        return tensors

    for module in (weight_files, checkpoint):
        monkeypatch.setattr(module, "load_tensors", load_and_cut)


def assert_refused(run: Callable[[], object], place: Path) -> None:
    with pytest.raises(CheckpointError, match=CUT) as caught:
        run()
    assert str(caught.value).isprintable()
    assert not (place / "out").exists()
    assert [p.name for p in place.iterdir() if p.name.startswith(".")] == []


def test_conversion(source: Path, tmp_path: Path, cut_after_check: None):
    shutil.copytree(source, tmp_path / "source")
    out = tmp_path / "out"
    assert_refused(lambda: to_mlx.convert(tmp_path / "source", out), tmp_path)


def test_loading(source: Path, tmp_path: Path, request: pytest.FixtureRequest):
    to_mlx.convert(source, tmp_path / "model")
    request.getfixturevalue("cut_after_check")
    assert_refused(lambda: fastvlm.load(tmp_path / "model"), tmp_path)
