"""Rows of tables, images in data files, and what is said of folders and faults."""

import base64
import csv
import hashlib
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.data import image_identity, located
from fastvlm_mlx.data.column_names import ANSWERS, first_value
from fastvlm_mlx.data.csv_rows import csv_rows
from fastvlm_mlx.data.faults import Faults
from fastvlm_mlx.data.folder import Folder, look_into, named
from fastvlm_mlx.data.image_identity import content_hash, identities
from fastvlm_mlx.data.stored_image import Base64Slice
from fastvlm_mlx.errors import DataError, ImageError

FILE = Path("a.csv")


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (1, "f0; repair it"),
        (2, "2 bad rows: f0; f1; repair them"),
        (3, "3 bad rows: f0; f1; f2; repair them"),
        (4, "4 bad rows: f0; f1; f2; and 1 more; repair them"),
        (9, "9 bad rows: f0; f1; f2; and 6 more; repair them"),
    ],
)
def test_the_first_faults_are_told(count: int, told: str):
    faults = Faults()
    faults.check("bad rows", "repair {them}")
    for number in range(count):
        faults.add(f"f{number}")
    with pytest.raises(DataError) as caught:
        faults.check("bad rows", "repair {them}")
    assert str(caught.value) == told


@pytest.mark.parametrize("empty", [None, "", []])
def test_an_empty_value_is_none(empty: Any):
    row = {"text": "b", "answer": empty, "caption": 0}
    assert first_value(row, ANSWERS) == 0 and first_value({}, ANSWERS) is None


def rows(text: str | bytes, **options: Any) -> list[tuple[int, Any]]:
    data = text if isinstance(text, bytes) else text.encode()
    return [
        (row.line, row.values or row.fault) for row in csv_rows(FILE, data, **options)
    ]


def test_lines_of_a_table():
    for end in ("\n", "\r\n", "\r"):
        text = f"{end}Image , TEXT{end}a,b{end}{end}, {end}c,d{end}e{end}f,g,h{end}"
        assert rows(text) == [
            (3, {"image": "a", "text": "b"}),
            (6, {"image": "c", "text": "d"}),
            (7, "1 fields for 2 columns"),
            (8, '3 fields for 2 columns (put "quotes" around texts with commas)'),
        ]
    text = 'image;text\n"a";"one\ntwo"\nb;"x"y\nc;d\ne;"open'
    found = rows(text)
    assert found[0] == (2, {"image": "a", "text": "one\ntwo"})
    assert found[1][0] == 4 and found[1][1].startswith("not a row of a table (")
    assert (5, {"image": "c", "text": "d"}) in found
    assert found[-1] == (6, "a quotation mark opens a field and none closes it")
    assert rows("image\ttext\na,b\tc") == [(2, {"image": "a,b", "text": "c"})]


def test_a_table_with_long_fields():
    before = csv.field_size_limit()
    assert rows("image,text\na," + "x" * 200_000)[0][1]["text"] == "x" * 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("image,colour\na,b", "image,colour"),
        ("  \n" + "x" * 61 + "\n", "x" * 60),
        ("x" * 60 + "\n", "x" * 60),
        (b"\xff,\xfe\na,b", "not UTF-8"),
        ('"open', '"open'),
    ],
)
def test_a_table_without_the_columns(text: Any, shown: str):
    with pytest.raises(DataError) as caught:
        rows(text)
    assert str(caught.value) == (
        f"a.csv:1: the first line ({shown}) does not name the columns; begin with a"
        " line such as file,text or image,question,answer"
    )


def test_columns_of_one_name():
    with pytest.raises(DataError, match=r"^a.csv:1: two columns are called b; rename"):
        rows("image,text,b,B,c,c\n")
    assert rows("image,text,,\na,b,c,d") == [(2, {"image": "a", "text": "b", "": "d"})]
    assert rows("x,y\n1,2", required=[("y", "z")]) == [(2, {"x": "1", "y": "2"})]


def test_data_files_at_their_limit(tmp_path: Path, monkeypatch):
    file = tmp_path / "data"
    assert located.LARGEST == 4 << 30 and located.LARGEST_STREAM == 256 << 20
    monkeypatch.setattr(located, "LARGEST", 5)
    for data, read in ((b"12345", b"12345"), (b"\xef\xbb\xbf12", b"12")):
        file.write_bytes(data)
        assert located.read_bytes(file) == read
    for data, told in (
        (b"123456", "more than 5 "),
        (b" \n ", "is empty; give a file with rows"),
        (b"", "is empty; give a file with rows"),
        (b"\xef\xbb\xbf", "is empty; give a file with rows"),
        (b"\xff\xfea", "is UTF-16 text; save it as UTF-8"),
        (b"\xfe\xffa", "is UTF-16 text; save it as UTF-8"),
    ):
        file.write_bytes(data)
        with pytest.raises(DataError) as caught:
            located.read_bytes(file)
        assert str(caught.value).startswith(f"{file}: {told}")
    with pytest.raises(DataError, match="none: no such file.*; check the path$"):
        located.read_bytes(tmp_path / "none")
    assert located.is_text("\u00e9") and not located.is_text("\udcff")


def test_an_image_inside_a_file(tmp_path: Path):
    data, file = bytes(range(256)), tmp_path / "data"
    url = base64.urlsafe_b64encode(data)
    assert b"-" in url and b"_" in url
    for text in (base64.b64encode(data), url, b"\n ".join((url[:9], url[9:]))):
        file.write_bytes(b"before" + text + b"after")
        assert Base64Slice(file, 6, len(text), "data:1").read() == data
    for text, told in (
        (b"A!==", "data:1: the image is not base64; download the file again"),
        (b"AAAA!", "data:1: the image is not base64; download the file again"),
        (b"AAA", "data:1: the image is not base64; download the file again"),
        (b" ", "data:1: the image is empty; take the row out"),
    ):
        file.write_bytes(text)
        with pytest.raises(ImageError) as caught:
            Base64Slice(file, 0, len(text), "data:1").read()
        assert str(caught.value) == told
    with pytest.raises(ImageError, match="^data:1: no such file.*; check the file$"):
        Base64Slice(tmp_path / "none", 0, 1, "data:1").read()


def test_images_of_one_content(tmp_path: Path, monkeypatch):
    large = tmp_path / "large"
    large.write_bytes(b"123" * 500_000)
    digest = hashlib.blake2b(large.read_bytes(), digest_size=16).hexdigest()
    assert content_hash(large) == digest
    monkeypatch.setattr(image_identity, "_CHUNK", 3)
    paths = [tmp_path / name for name in "abcd"]
    for path, text in zip(paths, ("12345", "12345", "54321", "123"), strict=True):
        path.write_text(text)
    hashed: list[Any] = []
    monkeypatch.setattr(
        image_identity,
        "content_hash",
        lambda one: hashed.append(one) or content_hash(one),
    )
    gone, address = tmp_path / "none", "http://a/b"
    found = identities([*paths, gone, address, b"12345", b"x", paths[0]])
    assert found[paths[0]] == found[paths[1]] == found[b"12345"]
    assert found[paths[0]].startswith("content ")
    assert found[paths[2]] not in (found[paths[0]], found[paths[3]])
    assert paths[3] not in hashed and found[paths[3]] == f"file {paths[3].absolute()}"
    assert found[gone] == f"file {gone}" and found[address] == f"address {address}"
    assert found[b"x"].startswith("content ")
    assert len(set(identities(paths[:2]).values())) == 1  # two are enough
    monkeypatch.setattr(image_identity, "content_hash", refuse)
    assert identities(paths[:2])[paths[0]] == f"file {paths[0]}"
    digest = hashlib.blake2b(b"12345", digest_size=16).hexdigest()
    assert content_hash(paths[0]) == content_hash(b"12345") == digest
    assert content_hash(address) == content_hash(b"address http://a/b")


def refuse(image: Any) -> str:
    raise OSError("closed")


def test_what_lies_in_a_folder(tmp_path: Path):
    for name in (
        *("b.png", "b.txt", "a.JPG", "a.JPG.txt", "alone.webp", "odd.svg", "odd.txt"),
        *("text.txt", "rows.CSV", ".hidden.png", "readme.md", "z/c.png", "z/c.txt"),
        *("z/more.csv", ".git/d.png"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "e.png").mkdir()
    found = look_into(tmp_path)
    names = [
        [path.relative_to(tmp_path).as_posix() for path in pair] for pair in found.pairs
    ]
    assert names == [["a.JPG", "a.JPG.txt"], ["b.png", "b.txt"], ["z/c.png", "z/c.txt"]]
    assert [path.name for path in found.alone] == ["alone.webp"]
    assert [path.name for path in found.texts] == ["text.txt"]
    assert [path.name for path in found.data] == ["rows.CSV"]
    assert found.notes()[0] == f"1 image has no .txt: {tmp_path}/alone.webp"
    assert found.notes()[-1] == f"1 .txt file is beside no image: {tmp_path}/text.txt"
    assert Folder().notes() == []
    with pytest.raises(DataError, match="none: no such file.*; check its permissions"):
        look_into(tmp_path / "none")
    two = Folder(alone=[Path("a"), Path("b")])
    assert two.notes() == ["2 images have no .txt: a, b"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "0"), (3, "0, 1, 2"), (4, "0, 1, 2 and 1 more"), (7, "0, 1, 2 and 4 more")],
)
def test_names_of_files(count: int, text: str):
    assert named([Path(str(number)) for number in range(count)]) == text
