"""`benchmarks.peers`: limits, medians, each peer's best, the tables, the whole run."""

import argparse
import dataclasses
import json
import sys

import mlx.core as mx
import pytest

from benchmarks import other_programs, random_checkpoint
from benchmarks.peers import __main__ as program
from benchmarks.peers import limits, measures, page, protocol, report, settings, summary
from benchmarks.peers.settings import MAIN
from tests.support.peer_turns import (
    CONDITIONS,
    SPEEDS,
    document,
    records,
    setting,
    stand_in,
    turn,
)

T32, T32_LAST = "transformers-float32", "transformers-float32-channels_last"


def test_speed_from_stamps():
    found = protocol.summary(10.0, [12.0, 12.5, 13.0], [1, 2, 3])
    assert (found["ttft"], found["generation_tps"]) == (2.0, 2.0)
    assert protocol.summary(0, [1.0], [7])["generation_tps"] is None


def test_medians_of_turns():
    turns = [turn(MAIN, ttft, memory=m) for ttft, m in ((1, 5), (3, 9), (2, 7))]
    found = measures.medians(turns)
    assert found["ttft"] == 2 and found["memory"] == 9
    assert measures.medians([{"setting": MAIN}]) == {}
    assert measures.is_better("ttft", 1, 2) and measures.is_better("memory", 1, 2)
    assert measures.is_better("generation_tps", 2, 1)


def test_the_best_of_each_peer_by_column():
    found = document()
    best = found["best"]["transformers"]
    assert best["ttft"]["setting"] == T32_LAST and best["ttft"]["value"] == 2.0
    assert best["generation_tps"] == {
        "value": 2.0,
        "setting": T32,
        "kind": "float32",
    }
    # torch is faster here, and shown as faster.
    assert found["ratios"][MAIN]["transformers"]["ttft"] == 1.5
    assert found["ratios"]["ours-4bit"]["transformers"]["generation_tps"] == 10.0
    assert "ours" not in found["best"]


def test_what_was_wanted_is_met_or_not():
    found = {each["what"]: each for each in document()["wanted"]}
    ttft = found["TTFT / transformers's best"]
    assert (ttft["value"], ttft["bound"], ttft["met"]) == (1.5, 1.0, False)
    decode = found["tokens/s / transformers's best"]
    assert decode["value"] == pytest.approx(10 / 3 / 2) and decode["met"]
    memory = found["memory / mlx-vlm's best"]
    assert memory["value"] == pytest.approx(1.9 / 3) and not memory["met"]
    assert not found["follow-up / own TTFT"]["met"]  # 0.1, wanted at most 0.05


@pytest.fixture
def config(reference):
    from fastvlm_mlx.files.json_file import read_json
    from fastvlm_mlx.model.config import ModelConfig
    from fastvlm_mlx.model_folder import converted

    folder = converted(reference / "llava-mini")
    return ModelConfig.from_dict(read_json(folder / "config.json"))


def test_the_bound_of_a_follow_up_is_reading_the_weights(config):
    slow = {"float32": 1e15, "bytes": 1.0}
    kept = records(turn(MAIN, 1.0))
    found = summary.document([setting(MAIN)], kept, slow, config, CONDITIONS)
    (bound,) = found["wanted"]
    limit = found["results"][MAIN]["limit"]
    assert bound["what"].endswith("(bound: reading weights)")
    assert bound["bound"] == limit["token_bytes"] > 1000 and bound["met"]


def test_limits_are_of_the_arithmetic(config):
    speeds = {"float32": 1e9, "bfloat16": 4e9, "bytes": 1e18}
    wide, half = (
        limits.least(config, arithmetic, speeds, 256, 40)
        for arithmetic in ("float32", "bfloat16")
    )
    assert wide["ttft"] == pytest.approx(4 * half["ttft"])
    # Without instructions for it bfloat16 is multiplied as float32.
    assert limits.speed("bfloat16", {**speeds, "bfloat16": 1e6}).flops == 1e9
    assert limits.speed("float32", speeds).flops == 1e9
    memory = {"float32": 1e18, "bytes": 1e6}
    wide, half, packed = (
        limits.least(config, *(each, memory, 256, 40, size))["token_bytes"]
        for each, size in (("float32", 4), ("bfloat16", 2), ("4bit", 0.625))
    )
    assert wide == 2 * half and packed < 0.5 * half


def test_shares_of_the_limit(config):
    conditions = {**CONDITIONS, "resolution": 256}
    kept = records(turn(MAIN, 1.0, facts={"weight_itemsize": 4.0}))
    found = summary.document([setting(MAIN)], kept, SPEEDS, config, conditions)
    limit = found["results"][MAIN]["limit"]
    assert limit["ttft_share"] == limit["ttft"]
    assert limit["token_share"] == pytest.approx(10 * limit["token"])
    least = limits.least(config, "bfloat16", SPEEDS, 256, 280, 4.0)
    assert limit["token_bytes"] == least["token_bytes"]


def test_torch_raises_the_limit():
    kept = records(turn(T32, 1.0, products={"float32": 1e10, "bfloat16": 5e11}))
    found = summary.document([setting(T32)], kept, SPEEDS, None, CONDITIONS)
    assert found["speeds"] == {"bfloat16": 5e11, "bytes": 1e10, "float32": 1e11}


def test_memory_is_read():
    assert limits.reading_speed(1 << 20, times=2) > 1e8


def test_agreement_with_float32():
    assert document()["agreement"] == {
        MAIN: {"same": 2, "of": 3},
        "ours-4bit": {"same": 0, "of": 1},
        T32: {"same": 3, "of": 3},
        T32_LAST: {"same": 3, "of": 3},
        "mlx-vlm-float32": {"same": 3, "of": 3},
    }


def test_decoding_beside_a_bare_loop():
    kept = records(*(turn("ours-float32", 1.0, bare_tps=b) for b in (8.0, 10.0, 20.0)))
    found = summary.document([setting("ours-float32")], kept, SPEEDS, None, CONDITIONS)
    assert found["decode_of_bare"] == 1.0


def test_the_table_tells_everything():
    shown = report.table(document())
    for line in (
        "other programs used 0.01 cores meanwhile",
        "    float32, channels_last: TTFT s, cold TTFT s, follow-up s, CPU s",
        "NOT MET: TTFT / transformers's best: 1.500, wanted at most 1",
        "the machine's limits: products float32 100 GFLOP/s; memory 10.0 GB/s",
        "ours-bfloat16: the first 2 of 3 tokens as ours in float32",
        "not measured: mlx-vlm-bfloat16: no answer within 240 s",
        "transformers: thing 1",
    ):
        assert line in shown
    (row,) = [r for r in shown.splitlines() if r.startswith("mlx-vlm-float32")][:1]
    assert row.endswith("1 round, without warm-up") and "40.000" in row
    far = {**document()["results"][T32], "left_behind": True}
    assert report.rounds(far) == ("1 round: more than 1.5 times slower in every column")


def test_a_random_checkpoint_is_as_released():
    text = random_checkpoint.text_config("tiny")
    (_, value) = next(random_checkpoint._tensors(text, mx.bfloat16))
    (_, wide) = next(random_checkpoint._tensors(text, mx.float32))
    assert value.dtype == mx.bfloat16
    assert mx.array_equal(value, wide.astype(mx.bfloat16))
    assert random_checkpoint._llava(text, 256, "bfloat16")["torch_dtype"] == "bfloat16"
    assert random_checkpoint._transformers(text, 256, "float32")["dtype"] == "float32"


def test_other_programs(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 100 999 999 0 0 0 0 0\n")
    clock = iter([10.0, 12.0])
    times = iter([(1.0, 0, 0, 0, 0), (1.5, 0.5, 0, 0, 0)])
    monkeypatch.setattr(other_programs.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(other_programs.os, "times", lambda: next(times))
    monkeypatch.setattr(other_programs.os, "sysconf", lambda name: 100)
    others = other_programs.OtherPrograms(stat)
    stat.write_text("cpu 300 0 100 9999 9999 0 0 100 0 0\n")
    assert others.cores() == pytest.approx((3.0 - 1.0) / 2)
    assert other_programs.OtherPrograms(tmp_path / "none").cores() is None


def options(reference, tmp_path, **changes) -> argparse.Namespace:
    asked = ["--model", str(reference / "llava-mini"), "--resolution", "128"]
    asked += ["--rounds", "2", "--tokens", "3", "--limit", "120"]
    asked += ["--python", f"transformers={sys.executable}"]
    found = program.parser().parse_args(asked)
    vars(found).update(resume=tmp_path / "turns.jsonl", **changes)
    return found


@pytest.fixture
def peers(monkeypatch, tmp_path):
    """Ours for real, two stand-ins for torch, one of them far slower."""
    slow = dataclasses.replace(
        stand_in("transformers", ttft=9.0, tps=1.0, cold=2.0), variant="b"
    )
    chosen = [setting(MAIN), stand_in("transformers", ttft=0.001, tps=1000.0), slow]
    monkeypatch.setattr(program, "chosen", lambda only: chosen)
    monkeypatch.setattr(limits, "reading_speed", lambda: 1e10)
    monkeypatch.setenv("FASTVLM_CACHE", str(tmp_path / "cache"))


def test_a_run_is_kept_and_resumed(reference, tmp_path, peers, monkeypatch, capfd):
    asked = options(reference, tmp_path, out=tmp_path / "out.json")
    monkeypatch.setattr(
        program.parser().__class__, "parse_args", lambda self, *rest: asked
    )
    program.main()
    out, err = capfd.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert found == json.loads(asked.out.read_text())
    assert [r["rounds"] for r in found["results"].values()] == [2, 2, 1]
    assert found["results"]["transformers-float32-b"]["left_behind"]
    assert found["best"]["transformers"]["ttft"]["kind"] == "float32"
    assert 0 < found["results"][MAIN]["limit"]["ttft_share"] < 1
    # The page can be made of it.
    assert len(page.panel_rows(found, "ttft")) == 2 and page.block(found)
    steps = [line for line in err.splitlines() if line.startswith("round ")]
    assert [line.partition(",")[0] for line in steps] == [
        "round 1 of 2: ours-bfloat16",
        "round 1 of 2: transformers-float32",
        "round 1 of 2: transformers-float32-b",
        "round 2 of 2: ours-bfloat16",
        "round 2 of 2: transformers-float32",
    ]
    assert f"go on with them by --resume {asked.resume}" in err
    # Everything is there already: nothing is measured again.
    program.main()
    again, err = capfd.readouterr()
    assert "round " not in err.replace("rounds", "")
    medians = [
        r["median"] for r in json.loads(again.splitlines()[-1])["results"].values()
    ]
    assert medians == [r["median"] for r in found["results"].values()]


def test_a_run_that_cannot_be_resumed_says_so(reference, tmp_path, peers, monkeypatch):
    asked = options(reference, tmp_path)
    asked.resume.write_text("nothing\n")
    monkeypatch.setattr(
        program.parser().__class__, "parse_args", lambda self, *rest: asked
    )
    with pytest.raises(SystemExit, match="error: --resume .*name another") as fault:
        program.main()
    assert "\n" not in str(fault.value)


def test_ctrl_c_keeps_the_finished_turns(
    reference, tmp_path, peers, monkeypatch, capfd
):
    asked = options(reference, tmp_path)
    real = program.turn.measure

    def pressed(which, *rest):
        if which.name != MAIN:
            raise KeyboardInterrupt
        return real(which, *rest)

    monkeypatch.setattr(program.turn, "measure", pressed)
    monkeypatch.setattr(
        program.parser().__class__, "parse_args", lambda self, *rest: asked
    )
    with pytest.raises(SystemExit) as fault:
        program.main()
    assert fault.value.code == 130
    assert capfd.readouterr().err.endswith("interrupted; the finished turns are kept\n")
    assert len(asked.resume.read_text().splitlines()) == 2


def test_names_for_only_are_those_of_the_settings():
    assert set(settings.NAMES) >= {"ours", T32, "mlx-vlm-bfloat16"}
    with pytest.raises(SystemExit):
        program.parser().parse_args(["--only", "nobody"])
