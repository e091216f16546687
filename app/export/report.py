"""Prints how well an exported encoder agrees with the MLX encoder."""

from collections.abc import Sequence

from fastvlm_mlx.app import terminal
from fastvlm_mlx.convert.coreml.verify import Verdict


def print_verdicts(verdicts: Sequence[Verdict], warnings: Sequence[str] = ()) -> None:
    """The figures go to stdout, the warnings to stderr, a line each."""
    for verdict in verdicts:
        print(verdict)
    lines = [*warnings]
    for verdict in verdicts:
        where = f"{verdict.function}: " if len(verdicts) > 1 else ""
        lines += [where + line for line in verdict.warnings]
        lines += [where + str(finding) for finding in verdict.findings]
    for line in lines:
        terminal.note(f"note: {line}")
