"""Sizes as text, and whether something fits."""

from pathlib import Path

import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.files import disk_space
from fastvlm_mlx.files.disk_space import (
    check_free_space,
    format_size,
    free_space,
    parse_size,
)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_999, "1000.0 kB"),
        (1_000_000, "1.0 MB"),
        (999_999_999, "1000.0 MB"),
        (1_000_000_000, "1.0 GB"),
        (1_250_000_000_000, "1250.0 GB"),
    ],
)
def test_sizes_at_the_limits_of_their_units(size: int, text: str):
    assert format_size(size) == text


def test_what_fits_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(disk_space, "free_space", lambda folder: 1000)
    check_free_space(tmp_path, 1000)
    with pytest.raises(OptionError) as caught:
        check_free_space(tmp_path, 1001)
    assert str(caught.value) == (
        f"{tmp_path}: 1.0 kB needed, 1.0 kB free; free some space or choose another"
        " place"
    )


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path):
    assert free_space(tmp_path / "a" / "b") > 0


@pytest.mark.parametrize(
    "text, size",
    [
        ("1MB", 10**6),
        ("2GB", 2 * 10**9),
        ("1.5 gb", 1_500_000_000),
        (" 3TB ", 3 * 10**12),
    ],
)
def test_sizes_are_read(text: str, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5", "999kB", "1,5GB", "GB", "-1GB", "1GBs"])
def test_what_is_no_size(text: str):
    with pytest.raises(
        OptionError, match=r"^size '.*': give 1MB or more, such as 2GB$"
    ):
        parse_size(text)
