"""The document of `benchmarks.peers` as tables of text."""

from typing import Any

from benchmarks.peers.measures import MEASURES
from benchmarks.peers.schedule import FAR
from fastvlm_mlx.app import machine
from fastvlm_mlx.files.disk_space import format_size

WIDTH, FIRST = 13, 36


def table(document: dict[str, Any]) -> str:
    """Medians of all settings, each peer's best, ratios, and what was wanted."""
    lines = [machine.line(document["machine"])]
    if (busy := document.get("others")) is not None:
        lines.append(f"other programs used {busy:.2f} cores meanwhile")
    lines += ["", *_medians(document), "", *_best(document), "", *_ratios(document)]
    lines += ["", *_limits(document), "", *_wanted(document), "", *_notes(document)]
    return "\n".join(lines)


def _head(first: str) -> str:
    return f"{first:{FIRST}}" + "".join(f"{m:>{WIDTH}}" for m, _ in MEASURES.values())


def _row(first: str, values: dict[str, Any]) -> str:
    cells = (f"{cell(key, values.get(key)):>{WIDTH}}" for key in MEASURES)
    return f"{first:{FIRST}}{''.join(cells)}"


def _medians(document: dict[str, Any]) -> list[str]:
    lines = [_head("median")]
    for name, result in document["results"].items():
        lines.append(f"{_row(name, result['median'])}  {rounds(result)}")
    return lines


def rounds(result: dict[str, Any]) -> str:
    """How often a setting was measured, and why not more often."""
    number = result["rounds"]
    words = f"{number} round{'s' if number != 1 else ''}"
    if result["left_behind"]:
        words += f": more than {FAR:g} times slower in every column"
    if number and not result["warm"]:
        words += ", without warm-up"
    return words


def _best(document: dict[str, Any]) -> list[str]:
    """A row of values for each peer, and below it the settings that reached them."""
    lines = [_head("best of the peer")]
    for peer, row in document["best"].items():
        lines.append(_row(peer, {key: found["value"] for key, found in row.items()}))
        kinds: dict[str, list[str]] = {}
        for key, found in row.items():
            kinds.setdefault(found["kind"], []).append(MEASURES[key][0])
        lines += [f"    {kind}: {', '.join(keys)}" for kind, keys in kinds.items()]
    return lines


def _ratios(document: dict[str, Any]) -> list[str]:
    lines = [_head("ours / best of the peer")]
    for name, peers in document["ratios"].items():
        for peer, ratios in peers.items():
            cells = "".join(
                f"{f'{ratios[key]:.3f}x' if key in ratios else '-':>{WIDTH}}"
                for key in MEASURES
            )
            lines.append(f"{f'{name} / {peer}':{FIRST}}{cells}")
    return lines


def _limits(document: dict[str, Any]) -> list[str]:
    speeds = document["speeds"]
    told = ", ".join(
        f"{name} {speeds[name] / 1e9:.0f} GFLOP/s"
        for name in ("float32", "bfloat16")
        if name in speeds
    )
    lines = [
        f"the machine's limits: products {told}; memory {speeds['bytes'] / 1e9:.1f}"
        " GB/s",
        f"{'share of the limit':{FIRST}}{'TTFT':>{WIDTH}}{'a token':>{WIDTH}}",
    ]
    for name, result in document["results"].items():
        if limit := result.get("limit"):
            cells = "".join(
                f"{f'{limit[key]:.0%}' if key in limit else '-':>{WIDTH}}"
                for key in ("ttft_share", "token_share")
            )
            lines.append(f"{name:{FIRST}}{cells}")
    return lines


def _wanted(document: dict[str, Any]) -> list[str]:
    return [
        f"{'met' if each['met'] else 'NOT MET'}: {each['what']}: {each['value']:.3f},"
        f" wanted at {'most' if each['less'] else 'least'} {each['bound']:.3g}"
        for each in document["wanted"]
    ]


def _notes(document: dict[str, Any]) -> list[str]:
    lines = []
    if share := document["decode_of_bare"]:
        lines.append(
            f"decoding in float32: {share:.3f} of the speed of a bare mlx-lm loop with"
            " the same weights"
        )
    for name, found in document["agreement"].items():
        lines.append(
            f"{name}: the first {found['same']} of {found['of']} tokens as ours in"
            " float32"
        )
    told = set()
    for result in document["results"].values():
        if (versions := result["versions"]) and result["peer"] not in told:
            told.add(result["peer"])
            words = ", ".join(f"{key} {value}" for key, value in versions.items())
            lines.append(f"{result['peer']}: {words}")
    for name, result in document["results"].items():
        if "failed" in result:
            kind = "not measured further" if result["median"] else "not measured"
            lines.append(f"{kind}: {name}: {result['failed']}")
    return lines


def cell(key: str, value: float | None) -> str:
    """A value of the column `key` for a table."""
    if value is None:
        return "-"
    return format_size(int(value)) if key == "memory" else f"{value:.3f}"
