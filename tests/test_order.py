"""No test depends on which ran before it, or on the machine's settings."""

import gc
import re

from tests.support.paths import TESTS


def test_the_hub_library_is_online_whoever_imported_it():
    """The fixture `run` sets HF_HUB_OFFLINE, which the library would keep for good."""
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE is False


def test_each_shared_fixture_has_one_home():
    """Fixtures of `pytest_plugins` are known everywhere: the last one loaded would win,
    so which files are named first would choose."""
    listed = {
        name
        for path in TESTS.rglob("test_*.py")
        for names in re.findall(r"^pytest_plugins = \[(.*?)\]", path.read_text(), re.M)
        for name in re.findall(r"tests\.support\.(\w+)", names)
    }
    assert len(listed) > 2
    fixtures = [
        fixture
        for name in sorted(listed)
        for fixture in re.findall(
            r"^@pytest\.fixture.*\ndef (\w+)",
            (TESTS / "support" / f"{name}.py").read_text(),
            re.M,
        )
    ]
    assert len(fixtures) == len(set(fixtures))


def test_a_search_for_garbage_passes_over_what_was_collected(request):
    """With thousands of tests it would take half a second."""
    assert gc.get_freeze_count() > len(request.session.items)
    assert not any(found is request.node for found in gc.get_objects())
