"""`benchmarks.peers`: settings, processes, turns, rounds, and the file of turns."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from benchmarks.peers import environments, process, schedule, turn
from benchmarks.peers.models import Models
from benchmarks.peers.records import Records
from benchmarks.peers.settings import MAIN, NAMES, SETTINGS, chosen
from fastvlm_mlx.errors import CheckpointError, OptionError
from tests.support.peer_turns import STAND_IN, records, setting, stand_in
from tests.support.peer_turns import turn as finished
from tests.support.small_images import noise

T32, T32_LAST = "transformers-float32", "transformers-float32-channels_last"


@pytest.fixture
def images(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.png", tmp_path / "b.png"
    for path in paths:
        noise(8, 8).save(path)
    return paths


@pytest.fixture
def place(tmp_path: Path) -> turn.Place:
    models = Models({"llava": tmp_path, "transformers": None}, tmp_path / "made")
    python = {"transformers": sys.executable, "mlx-vlm": "/no/such/python"}
    return turn.Place(models, tmp_path, python, 64, 3, limit=60)


def started(**options) -> process.Process:
    arguments = {"model": "m", "resolution": 64, **options}
    return process.Process(sys.executable, STAND_IN, arguments, limit=60)


def test_settings_have_names_of_their_own():
    names = [each.name for each in SETTINGS]
    assert len(set(names)) == len(names)
    assert MAIN in names and "transformers-bfloat16-channels_last" in names
    assert {each.kind for each in SETTINGS if each.peer == "transformers"} == {
        "float32",
        "float32, channels_last",
        "bfloat16",
        "bfloat16, channels_last",
    }


def test_settings_are_chosen_by_their_names_or_their_peers():
    assert [each.name for each in chosen([T32])] == [T32]
    assert {each.peer for each in chosen(["ours"])} == {"ours"}
    assert len(chosen(["ours"])) == 3
    assert {each.name for each in chosen(None)} <= set(NAMES)
    assert not any(each.by_name for each in chosen(None) + chosen(["mlx-vlm"]))


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has Accelerate")
def test_mlx_vlm_as_installed_runs_by_its_name_alone():
    (found,) = chosen(["mlx-vlm-float32-installed"])
    assert found.options == {"fast_blas": False}


def test_a_process_answers_and_ends(images):
    with started(ttft=2.0) as running:
        assert running.loaded["versions"] == {"stand-in": "1"}
        assert running.loaded["peak_memory"] > 1_000_000
        first = running.ask(do="first", image=str(images[0]), prompt="?", tokens=2)
    assert first is not None and first["ttft"] == 2.0
    assert running.failed is None and running.process.returncode == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"dies": True}, "no such thing"), ({"refuses": True}, "ValueError: not this")],
)
def test_a_process_that_fails_is_out_with_its_reason(images, options, reason):
    with started(**options) as running:
        asked = {"do": "first", "image": str(images[0]), "prompt": "?", "tokens": 2}
        assert running.ask(**asked) is None
        assert running.failed is not None and running.failed.startswith(reason)
        assert running.ask(**asked) is None


def test_what_takes_too_long_is_stopped(images):
    begun = time.monotonic()
    with started(sleep=60) as running:
        running.limit = 0.5
        asked = {"do": "first", "image": str(images[0]), "prompt": "?", "tokens": 2}
        assert running.ask(**asked) is None
    assert running.failed == "no answer within 0.5 s"
    assert time.monotonic() - begun < 30


def test_a_cold_start(tmp_path):
    program = "import time; print('said before'); time.sleep(0.3); print('answer')"
    command = [sys.executable, "-c", program]
    early, late = (process.cold(command, m, 60) for m in (b"", b"said before\n"))
    assert isinstance(early, float) and isinstance(late, float) and late > 0.3
    assert process.cold([sys.executable, "-c", "exit(3)"], b"", 60) == (
        "a cold start ended with 3"
    )
    slow = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert process.cold(slow, b"", 0.3) == "no cold answer within 0.3 s"


def test_the_answer_begins_after_the_marker():
    marker = b"assistant\n"
    assert process.text_after(marker, b"Prompt: user ... assistant\n\n") == b"\n"
    assert process.text_after(marker, b"Prompt: user") == b""
    assert process.text_after(b"", b"An") == b"An"


def test_a_turn_measures_the_second_image(place, images):
    found = turn.measure(stand_in("transformers", ttft=2.0), place, images)
    assert "failed" not in found
    assert (found["ttft"], found["generation_tps"]) == (2.0, 10.0)
    assert found["follow_up_ttft"] == 0.2 and found["warm"]
    assert found["cold_ttft"] > 0 and found["memory"] > 1_000_000
    assert found["products"] == {"float32": 1e9, "bfloat16": 5e15}
    assert found["seconds"] > found["cold_ttft"]


def test_a_models_files_are_read_before_its_turn(place, images, monkeypatch):
    size = sum(path.stat().st_size for path in images)
    assert turn.read(place.models.path("llava")) == size > 0
    order = []

    def start(*arguments: object) -> None:
        order.append("started")
        raise OSError("enough")

    monkeypatch.setattr(turn, "read", lambda folder: order.append(folder))
    monkeypatch.setattr(process, "Process", start)
    asked = stand_in("transformers")
    assert turn.measure(asked, place, images)["failed"] == "not set up: enough"
    assert order == [place.models.path(asked.model), "started"]


def test_a_slow_first_answer_counts_itself(place, images):
    asked = stand_in("transformers", ttft=turn.SLOW + 1, ids=())
    found = turn.measure(asked, place, images)
    assert found["warm"] is False and found["ids"] == [1]
    quick = turn.measure(stand_in("transformers", ids=()), place, images)
    assert quick["ids"] == [2]


def test_a_turn_tells_why_it_failed(place, images):
    found = turn.measure(stand_in("transformers", refuses=True), place, images)
    assert found["failed"] == "ValueError: not this image" and "ttft" not in found
    found = turn.measure(stand_in("mlx-vlm"), place, images)
    assert found["failed"].startswith("not set up: ")
    found = turn.measure(setting(T32), place, images)
    assert found["failed"] == (
        "not set up: no model in its layout; give --transformers-model"
    )


def test_the_commands_of_cold_starts(images):
    arguments = {"model": "M", "resolution": 64, "fast_blas": True}
    command, marker = turn.cold_command(setting(MAIN), "py", arguments, images[0])
    assert command[:4] == ["py", "-m", "fastvlm_mlx", "chat"] and marker == b""
    command, marker = turn.cold_command(
        setting("mlx-vlm-float32"), "py", arguments, images[0]
    )
    assert "openblas.bind()" in command[2] and marker.endswith(b"assistant\n")
    command, _ = turn.cold_command(setting(T32), "py", arguments, images[0])
    task = json.loads(Path(command[-1]).read_text())
    assert task == {**arguments, "prompt": turn.PROMPT, "image": str(images[0])}


def test_a_model_widened_for_float32(reference, tmp_path):
    import mlx.core as mx

    source = reference / "llava-mini"
    models = Models({"llava": source, "transformers": None}, tmp_path)
    assert models.path("llava") == source
    wide = models.path("llava-float32")
    assert models.path("llava-float32") == wide
    before, after = (
        mx.load(str(next(folder.glob("*.safetensors")))) for folder in (source, wide)
    )
    assert isinstance(before, dict) and isinstance(after, dict)
    assert before.keys() == after.keys()
    kinds = {value.dtype for value in after.values()}
    assert mx.float32 in kinds and mx.bfloat16 not in kinds
    for name, value in before.items():
        assert mx.array_equal(value.astype(after[name].dtype), after[name])
    with pytest.raises(CheckpointError, match="give --transformers-model"):
        models.path("transformers-float32")


def test_a_model_of_four_bits(reference, tmp_path):
    source = reference / "llava-mini"
    models = Models({"llava": source, "transformers": None}, tmp_path)
    config = json.loads((models.path("ours-4bit") / "config.json").read_text())
    assert config["quantization"]["bits"] == 4
    # Another state of the source is another model.
    weights = next(source.glob("*.safetensors"))
    made = models.path("llava-float32")
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / weights.name).write_bytes(weights.read_bytes())
    (changed / "config.json").write_text("{}")
    other = Models({"llava": changed, "transformers": None}, tmp_path)
    assert other.path("llava-float32") != made


def test_pinned_versions(monkeypatch):
    monkeypatch.setattr(environments, "REQUIREMENTS", {"a": ("torch", "timm")})
    environments.pin("torch==2.0")
    assert environments.REQUIREMENTS == {"a": ("torch==2.0", "timm")}


def test_far_slower_settings_are_measured_once():
    settings = [setting(name) for name in (MAIN, "ours-float32", T32, T32_LAST)]
    kept = records(
        finished(MAIN, 1.0),
        finished("ours-float32", 9.0),
        finished(T32, 2.0),
        finished(T32_LAST, 1.0),
    )
    assert schedule.due(settings, 0, kept) == settings
    # Ours always takes part.
    assert schedule.due(settings, 1, kept) == [s for s in settings if s.name != T32]
    assert schedule.left_behind(setting(T32), settings, kept)
    # Good in one column is enough to go on.
    good = [{**t, "follow_up_ttft": 0.1} for t in kept.turns]
    assert schedule.due(settings, 1, records(*good)) == settings


def test_what_failed_is_not_asked_again():
    settings = [setting(name) for name in (MAIN, T32)]
    kept = records(finished(MAIN, 1.0), finished(T32, 1.0, failed="no room"))
    assert schedule.due(settings, 1, kept) == settings[:1]


def test_the_plan_counts_what_is_left():
    settings = [setting(name) for name in (MAIN, T32)]
    first = schedule.plan(settings, 3, records(), least_ttft=2.0, limit=100)
    estimates = [schedule.estimate(s, records(), 2.0, 100) for s in settings]
    assert first == pytest.approx(3 * sum(estimates)) and first > 60
    done = records(finished(MAIN, 1.0, seconds=10.0), finished(T32, 1.0, seconds=20.0))
    assert schedule.plan(settings, 3, done, 2.0, 100) == pytest.approx(60)
    assert schedule.plan(settings, 1, done, 2.0, 100) == 0
    slow = schedule.estimate(setting("mlx-vlm-bfloat16"), records(), 0.1, 100)
    assert slow == 125
    alone = [setting("mlx-vlm-bfloat16")]
    assert schedule.plan(alone, 3, records(), 0.1, 100) == 125
    assert len(schedule.remaining(settings, 3, records())) == 6
    assert len(schedule.remaining(settings, 3, done)) == 4


def test_turns_are_kept_and_found_again(tmp_path):
    path = tmp_path / "turns.jsonl"
    conditions = {"commit": "1", "tokens": 3}
    kept = Records(path, conditions)
    kept.add(finished(MAIN, 1.0))
    kept.add(finished(MAIN, 2.0, 1))
    # The process that wrote the last line was killed.
    os.truncate(path, path.stat().st_size - 9)
    found = Records(path, conditions)
    assert [t["ttft"] for t in found.of(MAIN)] == [1.0]
    assert found.has(MAIN, 0) and not found.has(MAIN, 1) and not found.has(T32, 0)
    found.add(finished(T32, 3.0))
    assert len(Records(path, conditions).turns) == 2


def test_turns_of_other_conditions_are_refused(tmp_path):
    path = tmp_path / "turns.jsonl"
    Records(path, {"commit": "1"})
    with pytest.raises(OptionError, match="its commit is '1', not '2'; name another"):
        Records(path, {"commit": "2"})
    path.write_text("{}\n")
    with pytest.raises(OptionError, match="no turns of this program; name another"):
        Records(path, {"commit": "1"})
    path.write_text("")
    with pytest.raises(OptionError, match="no turns of this program"):
        Records(path, {"commit": "1"})
