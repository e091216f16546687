"""Skips for reasons that nobody allowed fail a run."""

from pathlib import Path

import pytest

from tests.support.skips import ALLOWED

pytest_plugins = ["pytester"]
TESTS = Path(__file__).parent
CONFTEST = """
    from tests.support.skips import Skips

    def pytest_configure(config):
        config.pluginmanager.register(Skips())
"""


@pytest.fixture(autouse=True)
def no_other_plugins(monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.mark.parametrize("where", ["module", "marker", "inside", "fixture"])
@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("no references beside the checkout", 1),
        ("root may read everything, so there is nothing to refuse", 0),
    ],
)
def test_a_skip_needs_an_allowed_reason(pytester, where: str, reason: str, code: int):
    lines = {
        "module": f"pytest.skip({reason!r}, allow_module_level=True)",
        "marker": f"@pytest.mark.skip({reason!r})\ndef test_it(): ...",
        "inside": f"def test_it():\n    pytest.skip({reason!r})",
        "fixture": (
            f"@pytest.fixture\ndef data():\n    pytest.skip({reason!r})\n"
            "def test_it(data): ..."
        ),
    }
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(f"import pytest\n{lines[where]}\ndef test_other(): ...")
    # A file that passes beside it: a run of nothing but skips has a code of its own.
    pytester.makepyfile(test_second="def test_another(): ...")
    found = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    assert found.ret == code
    assert (reason in found.stdout.str()) == bool(code)


def test_expected_failures_are_no_skips(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        "import pytest\n@pytest.mark.xfail(reason='later')\ndef test_it(): assert 0"
    )
    assert pytester.runpytest_inprocess("-p", "no:cacheprovider").ret == 0


def test_every_allowed_reason_is_in_use():
    written = "".join(
        path.read_text(encoding="utf-8")
        for path in TESTS.rglob("*.py")
        if path.name not in ("skips.py", Path(__file__).name)
    )
    for reason in ALLOWED:
        name = reason.removeprefix("could not import ").strip("'")
        given = f'importorskip("{name}")' if name in ("torch", "timm") else reason
        assert given in written, reason
