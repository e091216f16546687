"""A folder with four different small images to write data about."""

from pathlib import Path

import pytest

from tests.support.mock_model import make_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set"
    (place / "sub").mkdir(parents=True)
    for seed, name in enumerate(("a.png", "b.png", "c.png", "sub/d.png")):
        make_image(seed, (24 + seed, 20)).save(place / name)
    return place
