"""The turns as one document: medians, each peer's best, ratios, what was wanted."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.peers import limits
from benchmarks.peers.measures import MEASURES, is_better, medians
from benchmarks.peers.records import Records
from benchmarks.peers.schedule import left_behind
from benchmarks.peers.settings import MAIN, OURS, Setting

FORMAT = "fastvlm-mlx-peers 2"
# Of ours divided by the best of each peer, in the column.
WANTED = {
    "ttft": 1.0,
    "cold_ttft": 0.5,
    "follow_up_ttft": 1.0,
    "generation_tps": 1.3,
    "memory": 0.6,
}
FOLLOW_UP_SHARE = 0.05  # of our own time to the first token


def document(
    settings: Sequence[Setting],
    records: Records,
    measured: Mapping[str, float],
    config: Any,
    conditions: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that was found; seconds, bytes and tokens a second.

    Args:
        measured: the machine's speeds, as `limits.measure` gives them.
        config: the model's `ModelConfig`; None where it is not at hand.
        conditions: the machine and the options.
    """
    products = [t["products"] for t in records.turns if "products" in t]
    speeds = limits.fastest([measured, *products])
    results = {}
    for setting in settings:
        if turns := records.of(setting.name):
            found = _result(setting, turns)
            far = left_behind(setting, settings, records) and setting.peer != OURS
            found["left_behind"] = far
            if config is not None and "prompt_tokens" in found:
                found["limit"] = _limit(setting, found, config, speeds, conditions)
            results[setting.name] = found
    best = _best(results)
    return {
        "format": FORMAT,
        **conditions,
        "speeds": speeds,
        "results": results,
        "best": best,
        "ratios": {
            name: {
                peer: {
                    key: result["median"][key] / row[key]["value"]
                    for key in MEASURES
                    if key in result["median"] and key in row
                }
                for peer, row in best.items()
            }
            for name, result in results.items()
            if result["peer"] == OURS
        },
        "wanted": _wanted(results, best, speeds),
        "agreement": _agreement(results),
        "decode_of_bare": _of_bare(records),
    }


def _result(setting: Setting, turns: list[dict[str, Any]]) -> dict[str, Any]:
    last = turns[-1]
    result = {
        "peer": setting.peer,
        "kind": setting.kind,
        "arithmetic": setting.arithmetic,
        "versions": last.get("versions"),
        "median": medians(turns),
        "rounds": sum("ttft" in turn for turn in turns),
        "warm": all(turn.get("warm", True) for turn in turns),
        "runs": {
            key: [t[key] for t in turns if t.get(key)]
            for key in MEASURES
            if any(t.get(key) for t in turns)
        },
        "ids": last.get("ids"),
    }
    failed = [turn["failed"] for turn in turns if "failed" in turn]
    if failed:
        result["failed"] = failed[0]
    if "prompt_tokens" in turns[0]:
        result["prompt_tokens"] = turns[0]["prompt_tokens"]
    if size := turns[0].get("facts", {}).get("weight_itemsize"):
        result["weight_itemsize"] = size
    return result


def _limit(
    setting: Setting,
    result: dict[str, Any],
    config: Any,
    speeds: Mapping[str, float],
    conditions: Mapping[str, Any],
) -> dict[str, float]:
    """The machine's least times for this setting, and the shares that it reached."""
    least = limits.least(
        config,
        setting.arithmetic,
        speeds,
        conditions["resolution"],
        # mlx-vlm counts an image as one token, so ours is taken for all.
        conditions.get("prompt_tokens") or result["prompt_tokens"],
        result.get("weight_itemsize", limits.ITEMSIZE[setting.arithmetic]),
    )
    found = {"ttft": least["ttft"], "token": least["token"]}
    found["token_bytes"] = least["token_bytes"]
    median = result["median"]
    if "ttft" in median:
        found["ttft_share"] = least["ttft"] / median["ttft"]
    if "generation_tps" in median:
        found["token_share"] = least["token"] * median["generation_tps"]
    return found


def _best(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For each peer and column the best value and the setting that reached it."""
    best: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        if result["peer"] == OURS:
            continue
        row = best.setdefault(result["peer"], {})
        for key, value in result["median"].items():
            if key not in row or is_better(key, value, row[key]["value"]):
                row[key] = {"value": value, "setting": name, "kind": result["kind"]}
    return best


def _wanted(
    results: Mapping[str, Any],
    best: Mapping[str, Any],
    speeds: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What ours is meant to reach: the value, the bound, and whether it is met."""
    ours = results.get(MAIN, {}).get("median", {})
    found = []
    for peer, row in best.items():
        for key, bound in WANTED.items():
            if key in ours and key in row:
                ratio = ours[key] / row[key]["value"]
                less = MEASURES[key][1]
                what = f"{MEASURES[key][0].removesuffix(' s')} / {peer}'s best"
                found.append(_bound(what, ratio, bound, less))
    if "ttft" in ours and "follow_up_ttft" in ours:
        value = ours["follow_up_ttft"] / ours["ttft"]
        bound, words = FOLLOW_UP_SHARE, "follow-up / own TTFT"
        if limit := results[MAIN].get("limit"):
            reading = limit["token_bytes"] / speeds["bytes"] / ours["ttft"]
            if reading > bound:
                bound, words = reading, "follow-up / own TTFT (bound: reading weights)"
        found.append(_bound(words, value, bound, True))
    return found


def _bound(what: str, value: float, bound: float, less: bool) -> dict[str, Any]:
    met = value <= bound if less else value >= bound
    return {"what": what, "value": value, "bound": bound, "less": less, "met": met}


def _agreement(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How many first tokens each setting has in common with float32 of ours.

    All float32 settings have the same numbers and should give the same tokens; in 16
    and 4 bits a random model's near ties fall differently sooner or later.
    """
    ours = results.get("ours-float32", {}).get("ids")
    found = {}
    for name, result in results.items():
        if name != "ours-float32" and ours and result["ids"]:
            pairs = list(zip(ours, result["ids"], strict=False))
            same = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
            found[name] = {"same": same, "of": len(pairs)}
    return found


def _of_bare(records: Records) -> float | None:
    """Our decoding's speed as a share of a bare mlx-lm loop's, in the same process."""
    shares = [
        turn["generation_tps"] / turn["bare_tps"]
        for turn in records.of("ours-float32")
        if turn.get("bare_tps") and turn.get("generation_tps")
    ]
    return statistics.median(shares) if shares else None
