"""Settings, turns and documents for the tests of `benchmarks.peers`."""

from typing import Any

from benchmarks.peers import summary
from benchmarks.peers.records import Records
from benchmarks.peers.settings import SETTINGS, Setting
from tests.support.machine_facts import MACHINE

STAND_IN = "tests.support.stand_in_runtime"
SPEEDS = {"float32": 1e11, "bytes": 1e10}
CONDITIONS = {
    "machine": MACHINE,
    "others": 0.01,
    "date": "2026-11-26",
    "model": "random 0.5b",
    "resolution": 1024,
    "tokens": 16,
    "rounds": 1,
    "prompt_tokens": 280,
}


def setting(name: str) -> Setting:
    """One of the real settings."""
    return next(each for each in SETTINGS if each.name == name)


def stand_in(peer: str, arithmetic: str = "float32", **options: Any) -> Setting:
    """A setting whose runtime gives known figures; it reads ours's model folder."""
    return Setting(peer, arithmetic, "llava", STAND_IN, options)


def turn(name: str, ttft: float, number: int = 0, **more: Any) -> dict[str, Any]:
    """A finished turn; all its times are in proportion to `ttft`."""
    return {
        "setting": name,
        "round": number,
        "ttft": ttft,
        "cold_ttft": 2 * ttft,
        "follow_up_ttft": ttft / 10,
        "generation_tps": 10 / ttft,
        "cpu_seconds": 2 * ttft,
        "memory": 3_000_000_000,
        "ids": [1, 2, 3],
        "prompt_tokens": 280,
        "seconds": 30.0,
        "versions": {"thing": "1"},
        **more,
    }


def records(*turns: dict[str, Any]) -> Records:
    """Turns that no file keeps."""
    found = Records(None, {})
    for each in turns:
        found.add(each)
    return found


def document() -> dict[str, Any]:
    """Ours in three settings, torch faster in one, mlx-vlm far slower, one failure."""
    kept = records(
        turn("ours-float32", 4.0),
        turn("ours-bfloat16", 3.0, memory=1_900_000_000, ids=[1, 2, 9]),
        turn("ours-4bit", 3.0, memory=900_000_000, generation_tps=20.0, ids=[5]),
        turn("transformers-float32", 5.0),
        turn("transformers-float32-channels_last", 2.0, generation_tps=2.0),
        turn("mlx-vlm-float32", 40.0, warm=False),
        {
            "setting": "mlx-vlm-bfloat16",
            "round": 0,
            "failed": "no answer within 240 s",
            "seconds": 240.0,
        },
    )
    measured = {turn["setting"] for turn in kept.turns}
    settings = [each for each in SETTINGS if each.name in measured]
    return summary.document(settings, kept, SPEEDS, None, CONDITIONS)
