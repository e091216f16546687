"""The rounds of `benchmarks.peers` as medians, ratios and a table."""

import statistics
from typing import Any

from benchmarks.peers.contenders import Peer
from fastvlm_mlx.app import machine
from fastvlm_mlx.files.disk_space import format_size

FORMAT = "fastvlm-mlx-peers 1"
MEASURES = {  # the document's name: the table's, and whether less is better
    "ttft": ("TTFT s", True),
    "cold_ttft": ("cold TTFT s", True),
    "follow_up_ttft": ("follow-up s", True),
    "generation_tps": ("tokens/s", False),
    "cpu_seconds": ("CPU s", True),
    "memory": ("memory", True),
}


def document(
    peers: dict[str, Peer],
    found: dict[str, dict[str, list[Any]]],
    settings: dict[str, Any],
    machine: dict[str, Any],
) -> dict[str, Any]:
    """Everything that was found; medians of seconds, bytes and tokens per second."""
    results = {}
    for name, values in found.items():
        kept = {key: [v for v in values.get(key, ()) if v] for key in MEASURES}
        results[name] = {
            "versions": peers[name].loaded.get("versions"),
            "median": {
                key: max(runs) if key == "memory" else statistics.median(runs)
                for key, runs in kept.items()
                if runs
            },
            "runs": kept,
            "prompt_tokens": next(iter(values.get("prompt_tokens", ())), None),
            "ids": values.get("ids", [None])[-1],
        }
    ours = results.get("ours", {"median": {}})["median"]
    result = {
        "format": FORMAT,
        "machine": machine,
        "settings": {key: str(value) for key, value in settings.items()},
        "results": results,
        "ratios": {
            name: {
                key: ours[key] / other["median"][key]
                for key in MEASURES
                if key in ours and key in other["median"]
            }
            for name, other in results.items()
            if name != "ours"
        },
        "not_measured": {n: p.failed for n, p in peers.items() if p.failed},
        "same_answer": _same(results),
    }
    if bare := found.get("ours", {}).get("bare_tokens_per_second"):
        result["bare_tokens_per_second"] = statistics.median(bare)
        # Each round's own ratio: both loops ran within seconds of each other.
        result["decode_of_bare"] = statistics.median(
            ours / theirs
            for ours, theirs in zip(found["ours"]["generation_tps"], bare, strict=True)
        )
    return result


def _same(results: dict[str, Any]) -> dict[str, bool]:
    """Whether each peer gave our tokens, in the rounds that both took part in last."""
    ours = results.get("ours", {}).get("ids")
    return {
        name: other["ids"] == ours
        for name, other in results.items()
        if name not in ("ours", "mlx-vlm-installed") and ours and other["ids"]
    }


def table(document: dict[str, Any]) -> str:
    """The document as text: medians, then ours divided by theirs."""
    heads = "".join(f"{words:>14}" for words, _ in MEASURES.values())
    lines = [machine.line(document["machine"]), "", f"{'median':20}{heads}"]
    for name, result in document["results"].items():
        cells = "".join(_cell(key, result["median"].get(key)) for key in MEASURES)
        lines.append(f"{name:20}{cells}")
    lines += ["", f"{'ours / theirs':20}{heads}"]
    for name, ratios in document["ratios"].items():
        cells = "".join(
            f"{ratios[key]:>13.3f}x" if key in ratios else f"{'-':>14}"
            for key in MEASURES
        )
        lines.append(f"{name:20}{cells}")
    lines.append("")
    if "decode_of_bare" in document:
        lines.append(
            f"decoding: {document['decode_of_bare']:.3f} of a bare mlx-lm loop with"
            f" the same weights ({document['bare_tokens_per_second']:.2f} tokens/s)"
        )
    ours = document["results"].get("ours", {}).get("median", {})
    if "ttft" in ours and "follow_up_ttft" in ours:
        share = ours["follow_up_ttft"] / ours["ttft"]
        lines.append(f"our follow-up: {share:.3f} of our TTFT")
    for name, same in document["same_answer"].items():
        words = "the same tokens as ours" if same else "other tokens than ours"
        lines.append(f"{name}: {words}")
    for name, result in document["results"].items():
        if versions := result["versions"]:
            words = ", ".join(f"{key} {value}" for key, value in versions.items())
            lines.append(f"{name}: {words}")
    for name, reason in document["not_measured"].items():
        lines.append(f"not measured: {name}: {reason}")
    return "\n".join(lines)


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return f"{'-':>14}"
    return f"{format_size(int(value)) if key == 'memory' else f'{value:.3f}':>14}"
