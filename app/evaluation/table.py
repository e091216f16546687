"""What `eval` prints: tables as plain text, or one JSON document."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastvlm_mlx.app import machine
from fastvlm_mlx.app.evaluation.result import Difference, Result
from fastvlm_mlx.app.evaluation.setup import Setup
from fastvlm_mlx.evaluation.metrics import METRICS
from fastvlm_mlx.evaluation.published import published_figure
from fastvlm_mlx.evaluation.question import Benchmark
from fastvlm_mlx.evaluation.statistics import SIGNIFICANT, Comparison, Interval
from fastvlm_mlx.evaluation.tally import Row

ALL = "all"


@dataclass(frozen=True)
class Report:
    """All that is to be said of a run.

    `machine` are the facts of this one, None where a server answered; `difference` is
    None where nothing else was asked.
    """

    benchmark: Benchmark
    setup: Setup
    result: Result
    difference: Difference | None
    machine: dict[str, Any] | None

    @property
    def published(self) -> float | None:
        """The paper's figure for this model and benchmark, in per cent."""
        if self.setup.adapter is not None or self.setup.url is not None:
            return None
        return published_figure(self.setup.model, self.benchmark.name)

    def lines(self) -> list[str]:
        """The report as text, a table with the scores first."""
        benchmark, result = self.benchmark, self.result
        count = len(result.marks)
        settings = self.setup.shown_settings
        lines = [
            f"{benchmark.label}: {count} question{'' if count == 1 else 's'},"
            f" {METRICS[benchmark.metric].label} in per cent",
            f"model: {result.name}" + (f", {settings}" if settings else ""),
            f"prompt suffix: {self.suffix}",
            "",
            *_aligned(self._rows()),
        ]
        if result.extra:
            figures = (f"{name} {100 * v:.1f}" for name, v in result.extra.items())
            lines += ["", ", ".join(figures)]
        if result.cut:
            lines += ["", self._cut()]
        if self.difference is not None:
            lines += ["", *difference_lines(self.difference)]
        if self.machine is not None:
            lines += ["", machine.line(self.machine)]
        return lines

    @property
    def suffix(self) -> str:
        """What prompts end with, for people."""
        own = {q.suffix for q in self.benchmark.questions if q.suffix is not None}
        if own:
            return "as each kind of question has it: " + " / ".join(sorted(own))
        return self.benchmark.suffix or "none"

    def _cut(self) -> str:
        cut = self.result.cut
        answers = f"{cut} answer{'' if cut == 1 else 's'}"
        return f"{answers} ended at {self.setup.max_tokens} tokens; see --max-tokens"

    def _rows(self) -> list[list[str]]:
        tally, paper = self.result.tally, self.published
        head = ["", "n", "score", "95% interval"]
        rows = [_cells(row) for row in tally.rows() if row.category]
        rows = rows if len(rows) > 1 else []
        total = _cells(tally.total(ALL))
        if paper is not None:
            head.append("paper")
            rows = [[*row, ""] for row in rows]
            total.append(f"{paper:.1f}")
        return [head, *rows, total]

    def document(self) -> dict[str, Any]:
        """The same as JSON; shares are from 0 to 1."""
        benchmark, result = self.benchmark, self.result
        paper = self.published
        tally = result.tally
        document: dict[str, Any] = {
            "model": result.name,
            "settings": self.setup.settings,
            "benchmark": benchmark.name,
            "label": benchmark.label,
            "metric": benchmark.metric,
            "suffix": benchmark.suffix,
            "questions": len(result.marks),
            "score": tally.total().score,
            "interval": list(tally.total().interval),
            "published": None if paper is None else paper / 100,
            "categories": [_row_document(row) for row in tally.rows() if row.category],
            "failed": len(result.failed),
            "cut": result.cut,
        }
        if result.extra:
            document["extra"] = dict(result.extra)
        if self.difference is not None:
            document["against"] = _difference_document(self.difference)
        if benchmark.notes:
            document["notes"] = list(benchmark.notes)
        document["machine"] = self.machine
        return document


def difference_lines(difference: Difference) -> list[str]:
    """The two results side by side, and what the difference means."""
    first, second = difference.first, difference.second
    head = ["", "n", first.name, second.name, "difference", "95% interval"]
    rows = [
        _compared(name, each) for name, each in difference.categories.items() if name
    ]
    rows = rows if len(rows) > 1 else []
    total = _compared(ALL, difference.total)
    return [
        f"against {second.name}:",
        *_aligned([head, *rows, total]),
        verdict(difference),
    ]


def verdict(difference: Difference) -> str:
    """What changed, and whether that is an accident, in one line."""
    total, name = difference.total, difference.second.name
    changed = len(difference.changes)
    text = (
        f"{name} won {total.won}, lost {total.lost}, and answered {changed} of"
        f" {total.count} otherwise; {total.test}: {format_p(total.p)}"
    )
    if total.p >= SIGNIFICANT:
        return f"{text}: the difference may be chance"
    return f"{text}: {name} is {'better' if total.won > total.lost else 'worse'}"


def format_p(p: float) -> str:
    """`p = 0.012`, or `p < 0.0001`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def per_cent(share: float) -> str:
    """`98.6`."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """`+1.2`, `-17.6` or `0.0`."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def ends(interval: Interval, show: Any = per_cent) -> str:
    """`87.2 to 97.9`."""
    return f"{show(interval[0])} to {show(interval[1])}"


def _cells(row: Row) -> list[str]:
    return [row.category, str(row.count), per_cent(row.score), ends(row.interval)]


def _compared(name: str, each: Comparison) -> list[str]:
    return [
        name,
        str(each.count),
        per_cent(each.first),
        per_cent(each.second),
        points(each.difference),
        ends(each.interval, points),
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they must be; all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [f"{first:<{widths[0]}}"]
        cells += [f"{t:>{w}}" for t, w in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _row_document(row: Row) -> dict[str, Any]:
    return {
        "category": row.category,
        "count": row.count,
        "score": row.score,
        "interval": list(row.interval),
    }


def _difference_document(difference: Difference) -> dict[str, Any]:
    def compared(each: Comparison) -> dict[str, Any]:
        return {
            "count": each.count,
            "first": each.first,
            "second": each.second,
            "difference": each.difference,
            "interval": list(each.interval),
            "won": each.won,
            "lost": each.lost,
            "p": each.p,
            "test": each.test,
        }

    return {
        "name": difference.second.name,
        **compared(difference.total),
        "changed": len(difference.changes),
        "failed": len(difference.second.failed),
        "categories": {
            name: compared(each) for name, each in difference.categories.items() if name
        },
    }
