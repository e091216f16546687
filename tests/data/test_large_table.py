"""Rows of large tables (`fastvlm_mlx/data/large_table.py`)."""

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fastvlm_mlx.data.large_table import header_of, table_rows
from fastvlm_mlx.errors import DataError

# "a" so that none is blank: a row of blanks alone is passed over.
field = some.text('"\t\n é,日', max_size=6).map(lambda text: f"a{text}")


@given(some.lists(some.tuples(field, field), min_size=1, max_size=5))
def test_rows_are_those_that_csv_writes(rows: list[tuple[str, str]]):
    with TemporaryDirectory() as folder:
        path = Path(folder, "a.tsv")
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, "excel-tab", lineterminator="\n")
            writer.writerows([("x", "y"), *rows])
        found = list(table_rows(path))
        text = path.read_bytes()
    assert [(row.fields or {}).get("x") for row in found] == [x for x, _ in rows]
    assert [(row.fields or {}).get("y") for row in found] == [y for _, y in rows]
    for row in found:
        assert text[row.start :].startswith(row.raw)
        assert row.line == 1 + text[: row.start].count(b"\n")


def test_where_a_text_lies(tmp_path: Path):
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufeffx\ty\n1\té\n\n2\tabc\n".encode())
    first, second = table_rows(path)
    assert (first.line, second.line) == (2, 4)
    assert first.fields == {"x": "1", "y": "é"}
    place = second.place_of("abc")
    assert path.read_bytes()[place : place + 3] == b"abc"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("1", "1 fields for 2 columns"),
        ("1\t2\t", "3 fields for 2 columns"),
        ('1\t"2', "a quotation mark opens a field and none closes it"),
        ('1\t"2"3"', "a quotation mark opens a field and none closes it"),
    ],
)
def test_faults(tmp_path: Path, row: str, fault: str):
    path = tmp_path / "a.tsv"
    path.write_text(f"x\ty\n1\t2\n{row}\n")
    good, bad = table_rows(path)
    assert good.fields == {"x": "1", "y": "2"}
    assert (bad.line, bad.fields, bad.fault) == (3, None, fault)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(DataError, match="no such file or directory; check the path"):
        list(table_rows(tmp_path / "a.tsv"))


def test_names_of_columns():
    assert header_of(b'\xef\xbb\xbfindex\t"a b"\tc\r\n1\t2\t3\n') == [
        "index",
        "a b",
        "c",
    ]
    assert header_of(b"") == [""]
