"""Draws the charts of docs/performance.md and writes its tables from a result.

    python -m benchmarks.peers --out docs/peers.json
    python -m benchmarks.peers.page

Reads docs/peers.json, writes docs/images/peers.svg and peers-dark.svg, and what stands
between the two marks in docs/performance.md. No figure there is written by hand.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import svg
from benchmarks.peers.measures import MEASURES
from benchmarks.peers.report import rounds
from benchmarks.peers.settings import MAIN
from fastvlm_mlx.app.charts import number
from fastvlm_mlx.errors import FastVLMError, OptionError
from fastvlm_mlx.files.atomic_write import staged_file

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- peers: made by benchmarks.peers.page -->", "<!-- peers: end -->"
PANELS = {
    "ttft": "Time to the first token, s",
    "follow_up_ttft": "First token of a follow-up, s",
    "generation_tps": "Tokens a second (more is better)",
    "memory": "Peak memory of the process",
}
WIDTH, HEIGHT, PANEL = 920, 372, 440
QUIET = 0.1  # cores that other programs use, as a share of all


def chart(document: dict[str, Any], palette: svg.Palette) -> str:
    """The four panels: ours as a user gets it, and the best of each peer."""
    drawing = svg.Drawing(WIDTH, HEIGHT, palette, "fastvlm-mlx beside other programs")
    for place, (key, title) in enumerate(PANELS.items()):
        x, y = 20 + PANEL * (place % 2), 32 + 156 * (place // 2)
        drawing.bars(x, y, title, panel_rows(document, key), PANEL)
    for line, words in enumerate(conditions(document)):
        drawing.text(20, HEIGHT - 32 + 16 * line, words, size=11, muted=True)
    return str(drawing)


def panel_rows(document: dict[str, Any], key: str) -> list[svg.Row]:
    """Ours and every peer's best in one column; those that were measured."""
    found = []
    ours = document["results"].get(MAIN, {"median": {}})
    if (value := ours["median"].get(key)) is not None:
        found.append(("fastvlm-mlx", ours["kind"], value))
    for peer, row in document["best"].items():
        if key in row:
            found.append((peer, row[key]["kind"], row[key]["value"]))
    return [
        svg.Row(name, kind, value, shown(key, value)) for name, kind, value in found
    ]


def shown(key: str, value: float | None) -> str:
    """A value of the column `key` with three digits."""
    if value is None:
        return "-"
    return f"{number(value / 1e9)} GB" if key == "memory" else number(value)


def conditions(document: dict[str, Any]) -> tuple[str, str]:
    """The machine and what was measured on it, in two lines."""
    machine, times = document["machine"], document["rounds"]
    first = (
        f"{machine['chip']}, {machine['cores']} cores,"
        f" {machine['memory'] / 2**30:.0f} GB, {machine['versions']['system']};"
        f" {document['date']}, commit {machine['commit']}"
    )
    length = document["prompt_tokens"]
    prompt = f", {length} prompt tokens" if length else ""
    second = (
        f"{document['model']} weights, an image at {document['resolution']} px"
        f"{prompt}, {'one round' if times == 1 else f'medians of {times} rounds'}"
    )
    return first, f"{second}; {busy(document)}"


def busy(document: dict[str, Any]) -> str:
    """How quiet the machine was."""
    if (others := document.get("others")) is None:
        return f"load before {document['machine']['load']}"
    words = f"other programs used {others:.2f} cores"
    if others > QUIET * document["machine"]["cores"]:
        words += ": NOT QUIET"
    return words


def block(document: dict[str, Any]) -> str:
    """The part of the page that is made of the result, in Markdown."""
    parts = [
        "<picture>\n"
        '<source media="(prefers-color-scheme: dark)" srcset="images/peers-dark.svg">\n'
        f'<img alt="{alternative(document)}" src="images/peers.svg">\n'
        "</picture>",
        "Every other program is shown at its best: of all its settings the one that was"
        " best in that column, named below its bar. A cut bar is longer than shown.",
        "\n".join(table(document)),
        "\n".join(ratios(document)),
        "; ".join(conditions(document)) + ".",
    ]
    return "\n\n".join(part for part in parts if part)


def alternative(document: dict[str, Any]) -> str:
    """The chart in words."""
    told = []
    for key, title in PANELS.items():
        rows = panel_rows(document, key)
        told.append(f"{title}: " + ", ".join(f"{r.name} {r.shown}" for r in rows))
    return "; ".join(told)


def table(document: dict[str, Any]) -> list[str]:
    """All settings; the best of each peer in a column is bold."""
    heads = [words for words, _ in MEASURES.values()]
    heads += ["TTFT, of limit", "a token, of limit", "measured"]
    lines = [f"| | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 1)}"]
    for name, result in document["results"].items():
        best = document["best"].get(result["peer"], {})
        cells = []
        for key in MEASURES:
            words = shown(key, result["median"].get(key))
            bold = best.get(key, {}).get("setting") == name
            cells.append(f"**{words}**" if bold else words)
        for key in ("ttft_share", "token_share"):
            share = result.get("limit", {}).get(key)
            cells.append("-" if share is None else f"{share:.0%}")
        why = f"; {result['failed']}" if "failed" in result else ""
        label = "fastvlm-mlx" if result["peer"] == "ours" else result["peer"]
        cells.append(rounds(result) + why)
        lines.append(f"| {label} {result['kind']} | {' | '.join(cells)} |")
    return lines


def ratios(document: dict[str, Any]) -> list[str]:
    """Ours divided by the best of each peer, column by column; nothing without both."""
    if not any(document["ratios"].values()):
        return []
    heads = " | ".join(words for words, _ in MEASURES.values())
    lines = [
        f"| divided by the best of | {heads} |",
        f"|{'---|' * (len(MEASURES) + 1)}",
    ]
    for name, peers in document["ratios"].items():
        kind = document["results"][name]["kind"]
        for peer, found in peers.items():
            cells = (f"{found[key]:.2f}" if key in found else "-" for key in MEASURES)
            lines.append(f"| {kind} / {peer} | {' | '.join(cells)} |")
    return lines


def replaced(page: str, made: str) -> str:
    """The page with what is made between its two marks.

    Raises:
        OptionError: the marks are missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise OptionError(f"the page lacks the marks {BEGIN} and {END}; put them in")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def write(document: dict[str, Any], docs: Path) -> None:
    """Writes the charts and the page's part."""
    page = docs / "performance.md"
    text = replaced(page.read_text(encoding="utf-8"), block(document))
    for path, content in (
        (docs / "images" / "peers.svg", chart(document, svg.LIGHT)),
        (docs / "images" / "peers-dark.svg", chart(document, svg.DARK)),
        (page, text),
    ):
        with staged_file(path, overwrite=True) as partial:
            partial.write_text(content, encoding="utf-8")
        print(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.page",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--docs", type=Path, default=DOCS, help="the folder of pages")
    parser.add_argument("--json", type=Path, help="the result (docs/peers.json)")
    options = parser.parse_args()
    source = options.json or options.docs / "peers.json"
    try:
        write(json.loads(source.read_text(encoding="utf-8")), options.docs)
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        sys.exit(
            f"error: {error.filename}: {reason}; python -m benchmarks.peers --out"
            f" {source} writes a result"
        )
    except FastVLMError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
