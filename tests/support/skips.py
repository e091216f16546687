"""A pytest plugin: skips for reasons that are not named here fail the run.

A skipped test looks like a passed one; so data that is missing, or an import that
broke, must not come out as a skip. What stays is what a machine cannot do.
"""

import pytest

# The beginnings of the reasons, as tests give them.
ALLOWED = (
    "FASTVLM_MLX_VLM_PYTHON names no Python",
    "Pillow without WebP",
    "Python without readline",
    "could not import 'timm'",
    "could not import 'torch'",
    "macOS has Accelerate",
    "mlx.launch cannot run here",
    "needs Linux user namespaces to mount a small tmpfs",
    "no Xvfb here",
    "no bash here",
    "no chromium and chromedriver here",
    "no compiler or no OpenBLAS for the CPU kernels",
    "no coreai-core for this Python and system",
    "no fish here",
    "no ruby here",
    "no zsh here",
    "only a CPU compares in float32",
    "root may read everything",
    "the fonts that training/README.md names are not installed",
    "this Pillow has no AVIF",
    "this g++ knows no AVX512-BF16",
    "this processor multiplies no bfloat16 numbers",
)


class Skips:
    """The plugin. With pytest-xdist only the process that reports judges."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = reason_of(report)
            if not reason.startswith(ALLOWED):
                self.found[report.nodeid] = reason

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        on_a_worker = hasattr(session.config, "workerinput")
        if self.found and not on_a_worker and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self.found:
            terminalreporter.section("skips that tests/support/skips.py does not allow")
            for nodeid, reason in self.found.items():
                terminalreporter.line(f"{nodeid}: {reason}")


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """What a skip's report says, less pytest's own `Skipped: `."""
    where = report.longrepr
    text = where[2] if isinstance(where, tuple) else str(where)
    return text.removeprefix("Skipped: ")
