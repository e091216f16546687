"""Marks by category."""

import pytest

from fastvlm_mlx.errors import OptionError
from fastvlm_mlx.evaluation.statistics import bootstrap, wilson
from fastvlm_mlx.evaluation.tally import Row, Tally


def test_rows_and_the_total():
    tally = Tally([("b", 1), ("a", 0), ("b", 1), ("b", 0)])
    assert tally.categories == ("b", "a")
    assert tally.rows() == [
        Row("b", 3, 2 / 3, wilson(2, 3)),
        Row("a", 1, 0.0, wilson(0, 1)),
    ]
    assert tally.total() == Row("all", 4, 0.5, wilson(2, 4))
    assert (tally.share("b"), tally.share("a", "b")) == (2 / 3, 0.5)


def test_graded_marks():
    tally = Tally([("", 0.3), ("", 0.9)])
    (row,) = tally.rows()
    assert row.score == pytest.approx(0.6)
    assert row.interval == bootstrap([0.3, 0.9])


def test_nothing_counted():
    assert Tally().rows() == []
    with pytest.raises(OptionError, match="give at least one"):
        Tally().total()
