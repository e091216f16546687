"""The flags that the training example learns (`examples/draw_flags.py`)."""

import csv
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import EXAMPLES


@pytest.fixture(scope="module")
def flags() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "draw_flags.py"))


@pytest.fixture
def few(flags: dict[str, Any], tmp_path: Path) -> Path:
    flags["IMAGES"].update(train=24, test=12)
    list(flags["draw"](tmp_path / "flags"))
    return tmp_path / "flags"


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "captions.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_country_is_shown_as_often(flags: dict[str, Any], few: Path):
    assert set(Counter(r["answer"] for r in rows(few / "train")).values()) == {2}
    assert {r["answer"] for r in rows(few / "test")} == set(flags["COUNTRIES"])


def test_every_run_draws_the_same(flags: dict[str, Any], few: Path, tmp_path: Path):
    list(flags["draw"](tmp_path / "again"))
    for path in sorted(few.rglob("*.*")):
        other = tmp_path / "again" / path.relative_to(few)
        assert path.read_bytes() == other.read_bytes(), path


def test_no_two_images_are_equal(few: Path):
    images = [path.read_bytes() for path in few.rglob("*.png")]
    assert len(set(images)) == len(images) == 36


def test_stripes_stand_as_the_flag_has_them(flags: dict[str, Any]):
    import random

    for country, size in (("ITALY", (90, 60)), ("HUNGARY", (90, 60))):
        cloth: Any = flags["cloth"](random.Random(1), country, *size)
        across = country == "ITALY"
        middle = [
            cloth.getpixel((x, 30) if across else (45, 2 * x // 3)) for x in (15, 75)
        ]
        red, green = middle if country == "HUNGARY" else reversed(middle)
        assert red[0] > 2 * red[1] and green[1] > 2 * green[0]
