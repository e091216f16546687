"""Reading tables, folders with texts and what `caption` writes."""

import os
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.app.caption.records import CSV, JSONLines, Record
from fastvlm_mlx.train.data.read import QUESTION, read_samples
from tests.support.train_data import only, write


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", "file,text\na.png,A cup.\n"),
        ("captions.csv", "\n\nImage, Answer \r\na.png,A cup.\r\n\r\n"),
        ("captions.csv", '\ufefffile;answer\ra.png;"A cup."\r'),
        ("captions.tsv", "file_name\ttext\tid\na.png\tA cup.\t7\n"),
        ("data.csv", "question,path,answer\nDescribe the image.,a.png,A cup.\n"),
        ("data.jsonl", '\ufeff{"image": "a.png", "answer": " A cup. "}\r\n\r\n'),
        ("data.json", '{\n "image": "a.png",\n "answer": "A cup."\n}\n'),
        ("data", '{"image": "a.png", "answer": "A cup."}'),
    ],
)
def test_tables_and_marks(name: str, text: str, folder: Path):
    (folder / name).write_text(text, encoding="utf-8", newline="")
    sample = only(folder / name)
    assert sample.turns == ((QUESTION, "A cup."),)
    assert sample.images == (folder / "a.png",)


def test_fields_with_line_ends(folder: Path):
    table = 'file,text\r\na.png,"one\r\ntwo, ""three"""\r\nb.png,"x\ry"\r\n'
    (folder / "captions.csv").write_bytes(table.encode())
    samples, _ = read_samples(folder)
    assert [s.answers for s in samples] == [('one\r\ntwo, "three"',), ("x\ry",)]
    assert [s.origin.rpartition(":")[2] for s in samples] == ["2", "4"]


def test_a_folder_with_texts(folder: Path):
    (folder / "a.txt").write_text("A cup.\n")
    (folder / "b.txt").write_bytes("\ufeffÉtude\n".encode())
    (folder / "sub" / "d.png.txt").write_text("A tray.")
    (folder / "readme.txt").write_text("hello")
    (folder / "e.jxl").write_bytes(b"x")
    (folder / "g.jpg").mkdir()
    (folder / ".hidden.png").write_bytes(b"x")
    samples, report = read_samples(folder, question="What?")
    assert [s.turns for s in samples] == [
        (("What?", "A cup."),),
        (("What?", "Étude"),),
        (("What?", "A tray."),),
    ]
    assert [s.images[0] for s in samples] == [
        folder / "a.png",
        folder / "b.png",
        folder / "sub" / "d.png",
    ]
    assert samples[0].origin == str(folder / "a.txt")
    assert report.notes == (
        f"1 image has no .txt: {folder / 'c.png'}",
        f"1 image is of a kind that is not opened: {folder / 'e.jxl'}",
        f"1 .txt file is beside no image: {folder / 'readme.txt'}",
    )


def test_names_that_are_not_utf_8(folder: Path):
    name = os.fsdecode(b"caf\xe9")
    try:
        (folder / "a.png").rename(folder / f"{name}.png")
    except OSError:
        pytest.skip("the disk wants names in UTF-8")
    (folder / f"{name}.txt").write_text("A cup.")
    (sample,), _ = read_samples(folder)
    assert sample.images == (folder / f"{name}.png",)
    (folder / f"{name}.txt").unlink()
    for form in (CSV(), JSONLines()):
        record = Record(f"{name}.png", "demo", "What?", "A cup.", "stop")
        file = folder / ("x.csv" if form.quoted else "x.jsonl")
        file.write_bytes(form.header + form.encode(record))
        assert only(file).images == (folder / f"{name}.png",)


@pytest.mark.parametrize("form", [CSV(), CSV("\t"), JSONLines()])
def test_what_caption_writes(form: Any, folder: Path, monkeypatch):
    records = [
        Record("set/a.png", "demo", "What?", "A cup,\rwith tea.", "stop"),
        Record("set/b.png", "demo", "What?", {"kind": "plate"}, "length"),
        Record("set/b.png", "demo", "Why?", "It is so.", "stop"),
        Record("set/c.png", "demo", "What?", error="damaged"),
        Record("set/sub/d.png", "demo", "What?", " ", "stop"),
    ]
    suffix = "jsonl" if isinstance(form, JSONLines) else "csv"
    suffix = "tsv" if form.header.count(b"\t") else suffix
    file = folder / f"out.{suffix}"
    file.write_bytes(form.header + b"".join(map(form.encode, records)))
    # `caption set -o set/out.csv` names images as seen from where it runs.
    monkeypatch.chdir(folder.parent)
    samples, report = read_samples(file)
    assert [s.turns for s in samples] == [
        (("What?", "A cup,\rwith tea."),),
        (("What?", '{"kind": "plate"}'),),
        (("Why?", "It is so."),),
    ]
    assert (report.failed, report.empty_answers, report.cut_off) == (1, 1, 1)
    assert report.summary() == (
        "3 samples, 2 images, 1 answer cut off by their length;"
        " left out: 1 empty answer, 1 failed caption"
    )


def test_an_image_folder(folder: Path, tmp_path: Path):
    file = write(tmp_path / "x.jsonl", {"image": "d.png", "answer": "A cup."})
    sample = only(file, image_folder=folder / "sub")
    assert sample.images == (folder / "sub" / "d.png",)
