"""The files of a run: what they keep, whose they are, and when they are damaged."""

import json

import mlx.core as mx
import pytest

from fastvlm_mlx.errors import CheckpointError, OptionError
from fastvlm_mlx.train.state import BEST, LOG, STATE, Facts, State, StateFiles

FACTS = Facts(7, 3.25, 12.0, (2.5, 2.0), (3.0, None, 2.75), 2)


def state(value: float = 1.0) -> State:
    array = mx.full((2, 3), value)
    moments = {"projector.m.v": {"m": array + 1, "v": array + 2}}
    return State({"projector.m.v": array}, moments, FACTS)


@pytest.fixture
def files(tmp_path) -> StateFiles:
    return StateFiles(tmp_path / "new" / "run", {"lr": 2e-4, "samples": "10, abc"})


def test_a_state_comes_back(files: StateFiles):
    assert not files.exists()
    files.write(state(5.0))
    files.write(state(1.0))
    back = files.read()
    assert files.exists() and back.facts == FACTS
    for name, array in state().flat().items():
        assert mx.array_equal(back.flat()[name], array)
    files.write_best({"a": mx.ones(2)})
    assert mx.array_equal(files.read_best()["a"], mx.ones(2))
    assert {path.name for path in files.folder.iterdir()} == {STATE, BEST}


def test_a_state_of_other_options_is_refused(files: StateFiles):
    files.write(state())
    other = StateFiles(files.folder, files.run | {"lr": 1e-3})
    with pytest.raises(OptionError) as error:
        other.read()
    assert str(error.value) == (
        f"{files.folder}: was begun with lr 0.0002, not 0.001; resume it with that, or"
        " remove the folder and begin anew"
    )


@pytest.mark.parametrize("damage", ["cut", "text", "another file"])
def test_a_damaged_state(files: StateFiles, damage: str):
    files.write(state())
    path = files.folder / STATE
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "text":
        path.write_text("no state")
    else:
        mx.save_safetensors(str(path), {"a": mx.ones(2)})
    with pytest.raises(CheckpointError) as error:
        files.read()
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    if damage == "another file":
        assert "is no state of a training run; remove" in str(error.value)


def test_a_full_disk_keeps_the_state_before(files: StateFiles, monkeypatch):
    files.write(state(1.0))

    def full(opened, arrays, metadata):
        opened.write(b"some of it")
        raise RuntimeError("[write] Unable to write 100 bytes to file.")

    monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(OptionError) as error:
        files.write(state(2.0))
    assert str(files.folder / STATE) in str(error.value)
    assert [path.name for path in files.folder.iterdir()] == [STATE]
    assert float(files.read().parameters["projector.m.v"][0, 0]) == 1.0


def test_no_room_is_seen_before_writing(files: StateFiles, monkeypatch):
    from fastvlm_mlx.files import disk_space

    monkeypatch.setattr(disk_space, "free_space", lambda folder: 10)
    with pytest.raises(OptionError, match="72 bytes needed, 10 bytes free; free some"):
        files.write(state())


def test_the_log_forgets_what_comes_again(files: StateFiles):
    files.folder.mkdir(parents=True)
    records = [
        {"event": "Started", "step": 0},
        {"event": "Stepped", "step": 6},
        {"event": "EpochEnded", "step": 7, "epoch": 2},
        {"event": "EpochEnded", "step": 7, "epoch": 3},
        {"event": "Stepped", "step": 8},
    ]
    for record in records:
        files.log(record)
    with (files.folder / LOG).open("a") as file:
        file.write('{"event": "Step')
    files.cut_log(FACTS)
    lines = (files.folder / LOG).read_text().splitlines()
    assert [json.loads(line) for line in lines] == records[:3]
    files.cut_log(Facts())
    files.log({"event": "Stepped", "step": 9})
    files.cut_log(Facts())
    assert len((files.folder / LOG).read_text().splitlines()) == 1


def test_a_log_that_cannot_be_written(files: StateFiles):
    (files.folder / LOG).mkdir(parents=True)
    with pytest.raises(OptionError) as error:
        files.log({"step": 1})
    assert str(error.value).startswith(f"{files.folder / LOG}: cannot be written (")
