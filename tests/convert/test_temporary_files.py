"""Where an export's temporary files are, and what a disk too small for them says."""

import os
import re
import tempfile
from pathlib import Path

import pytest

from fastvlm_mlx.convert import temporary_files
from fastvlm_mlx.convert.coreml.options import CoreMLOptions
from fastvlm_mlx.convert.temporary_files import least_bytes, temporary_files_in
from fastvlm_mlx.convert.to_coreml import export
from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.fastvlm import FastVLM, load

SMALL = CoreMLOptions(resolutions=(64,))


@pytest.fixture(scope="module")
def model(reference: Path) -> FastVLM:
    return load(reference / "llava-mini", dtype="float32")


def test_nothing_is_written_to_the_systems_temporary_folder(
    model, tmp_path: Path, monkeypatch
):
    pytest.importorskip("coremltools")
    missing = str(tmp_path / "nowhere")
    monkeypatch.setattr(tempfile, "tempdir", missing)
    seen = []
    export(
        model,
        tmp_path / "x.mlpackage",
        SMALL,
        notify=lambda line: seen.append((line.split()[0], tempfile.tempdir)),
    )
    assert tempfile.tempdir == missing
    # A later run of the same output clears it with the rest.
    [place] = [folder for step, folder in seen if step == "building"]
    assert place is not None and Path(place).name == "temporary"
    assert Path(place).parent.name.startswith(".x.mlpackage.partial-")
    assert os.listdir(tmp_path) == ["x.mlpackage"]
    assert sorted(os.listdir(tmp_path / "x.mlpackage")) == ["Data", "Manifest.json"]


def test_too_little_room_is_said_before_the_work(model, tmp_path: Path, monkeypatch):
    pytest.importorskip("coremltools")
    monkeypatch.setattr("fastvlm_mlx.files.disk_space.free_space", lambda path: 1000)
    out = tmp_path / "x.mlpackage"
    need = re.escape(f"{out}: ") + r"\d+\.\d kB needed, 1\.0 kB free; free some space"
    with pytest.raises(OptionError, match=f"^{need}"):
        export(model, out, SMALL)
    assert os.listdir(tmp_path) == []


def test_what_is_needed_at_least(model):
    parts = (model.vision_tower, None)
    plain = least_bytes(parts, "float16", compressed=False)
    assert least_bytes(parts, "float32", compressed=False) == 2 * plain
    assert least_bytes(parts, "float16", compressed=True) == plain // 4
    both = (model.vision_tower, model.projector)
    assert least_bytes(both, "float16", compressed=False) > plain > 50_000


def test_a_failure_of_the_libraries_on_a_full_disk(tmp_path: Path, monkeypatch):
    folder = tmp_path / "temporary"
    for free, kind in ((10, OSError), (1000, RuntimeError)):
        monkeypatch.setattr(temporary_files, "free_space", lambda path, f=free: f)
        with pytest.raises(kind, match="No space left" if free == 10 else "^weights$"):
            with temporary_files_in(folder, needed=1000):
                raise RuntimeError("weights")
        assert not folder.exists()
