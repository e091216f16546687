"""What a download's error says of the errors that it came from."""

import errno

import pytest

from fastvlm_mlx.hub.download_errors import explain


def raised(*, how: str) -> BaseException:
    """An error raised while a full disk's was handled."""
    full = OSError(errno.ENOSPC, "No space left on device")
    try:
        try:
            raise full
        except OSError as error:
            if how == "from it":
                raise RuntimeError("outer") from error
            if how == "from None":
                raise RuntimeError("outer") from None
            raise RuntimeError("outer")  # noqa: B904
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("how", "is_seen"), [("from it", True), ("while", True), ("from None", False)]
)
def test_the_cause_is_seen_unless_it_was_cut_off(how: str, is_seen: bool):
    message = str(explain(raised(how=how), "them/it", "https://hub"))
    assert message.startswith("them/it: ")
    assert ("disk full; free some space or set" in message) == is_seen
    assert ("download failed (outer); run it again" in message) != is_seen
