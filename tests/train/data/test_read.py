"""Reading: every shape gives the same samples; what is left out is counted."""

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.app.caption.records import CSV, JSONLines, Record
from fastvlm_mlx.errors import DataError
from fastvlm_mlx.train.data.read import QUESTION, read_samples
from fastvlm_mlx.train.data.report import DataReport
from fastvlm_mlx.train.data.samples import Sample


def write(file: Path, *rows: Any) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def only(file: Path, **options: Any) -> Sample:
    (sample,), report = read_samples(file, **options)
    assert report.samples == 1 and not report.faults
    return sample


SHAPES: dict[str, dict[str, Any]] = {
    "llava": {
        "id": "x",
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is it?"},
            {"from": "gpt", "value": "A cup."},
        ],
    },
    "llava, mark at the end": {
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "What is it?\n<image>"},
            {"from": "gpt", "value": "A cup."},
        ],
    },
    "llava, no mark": {
        "images": ["a.png"],
        "conversations": [
            {"role": "user", "content": "What is it?"},
            {"role": "assistant", "content": "A cup.\n"},
        ],
    },
    "openai": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "a.png"}},
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
        ]
    },
    "openai, image part": {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": "a.png"},
                    {"type": "text", "text": "What is it?"},
                ],
            },
            {"role": "assistant", "content": "A cup."},
        ]
    },
    "openai, images of the row": {
        "images": ["a.png"],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}],
            },
            {"role": "assistant", "content": "A cup."},
        ],
    },
    "ollama": {
        "messages": [
            {"role": "user", "content": "What is it?", "images": ["a.png"]},
            {"role": "assistant", "content": "A cup."},
        ]
    },
    "question": {"question": "What is it?", "answer": "A cup.", "image": "a.png"},
    "questions of a list": {
        "prompt": "<image>What is it?",
        "response": "A cup.",
        "images": ["a.png"],
    },
    "caption": {"image": "a.png", "caption": "A cup.", "prompt": "What is it?"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: str, folder: Path):
    file = write(folder / "data.jsonl", SHAPES[shape])
    sample = only(file)
    assert sample.turns == (("What is it?", "A cup."),)
    assert sample.images == (folder / "a.png",)
    assert sample.joining() == (1,)
    assert sample.origin == f"{file}:1" and sample.system is None


def test_all_shapes_in_one_list(folder: Path):
    file = folder / "data.json"
    file.write_text("\n" + json.dumps(list(SHAPES.values()), indent=1))
    samples, report = read_samples(folder)
    assert report.samples == 1 and report.duplicates == len(SHAPES) - 1
    assert samples[0].origin == f"{file}:3"
    assert "9 duplicates" in report.summary()


def test_several_turns_and_images(folder: Path):
    row = {
        "image": ["a.png", "sub/d.png", "b.png"],
        "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "<image>\n<image>\nWhich is red?"},
            {"from": "gpt", "value": "The first."},
            {"from": "human", "value": "And <image> this?"},
            {"from": "gpt", "value": "No."},
        ],
    }
    sample = only(write(folder / "x.jsonl", row))
    assert sample.images == tuple(folder / n for n in ("a.png", "sub/d.png", "b.png"))
    assert sample.turns == (("Which is red?", "The first."), ("And this?", "No."))
    assert sample.images_by_turn == (2, 1) and sample.system == "Be brief."


def test_messages_of_one_role_become_one(folder: Path):
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": [{"type": "image_url", "image_url": "a.png"}]},
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": "A cup"},
            {"role": "assistant", "content": "of tea"},
        ]
    }
    sample = only(write(folder / "x.jsonl", row))
    assert sample.turns == (("What?", "A cup\n\nof tea"),)
    assert sample.system == "Be brief.\n\nBe kind." and len(sample.images) == 1


def test_embedded_images_and_addresses(folder: Path):
    data = (folder / "a.png").read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    named = [url, "https://example.org/b.png", (folder / "c.png").as_uri(), "b.png"]
    row = {"question": "What?", "answer": "x", "images": named}
    sample = only(write(folder / "x.jsonl", row))
    files = (folder / "c.png", folder / "b.png")
    assert sample.images == (data, "https://example.org/b.png", *files)


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
    (folder / "e.heic").write_bytes(b"x")
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
        f"1 image is of a kind that is not opened: {folder / 'e.heic'}",
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


def test_a_report_of_nothing():
    assert DataReport("x").summary() == "0 samples, 0 images"
    assert DataReport("x", samples=1, images=1, turns=2, text_only=1).summary() == (
        "1 sample, 1 image, 2 questions, 1 without an image"
    )


def test_samples_of_a_program():
    with pytest.raises(DataError, match="a sample: has no turns; give"):
        Sample(("a.png",), ())
    for counts in ((1,), (1, 1), (0, 0), (2, -1)):
        with pytest.raises(DataError, match=r"x:1: images_by_turn .*; give a number"):
            Sample(("a.png",), (("?", "x"), ("?", "y")), None, "x:1", counts)


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


def test_copies_and_repeated_rows_are_duplicates(folder: Path):
    (folder / "copy.png").write_bytes((folder / "a.png").read_bytes())
    rows = [
        {"image": "a.png", "question": "What?", "answer": "A cup."},
        {"image": "./a.png", "question": "What?", "answer": "A cup. "},
        {"image": "copy.png", "question": "What?", "answer": "A cup."},
        {"image": "b.png", "question": "What?", "answer": "A cup."},
        {"image": "a.png", "question": "Why?", "answer": "A cup."},
        {"image": "a.png", "question": "What?", "answer": "A mug."},
    ]
    samples, report = read_samples(write(folder / "x.jsonl", *rows))
    assert [s.origin.rpartition(":")[2] for s in samples] == ["1", "4", "5", "6"]
    assert (report.duplicates, report.images) == (2, 2)


def test_text_only_samples_may_join_those_with_images(folder: Path):
    rows = [
        {"image": "a.png", "answer": "A cup."},
        {"question": "Hello", "answer": "Hi!"},
    ]
    samples, report = read_samples(write(folder / "x.jsonl", *rows))
    assert report.text_only == 1 and samples[1].images == ()
    assert samples[1].turns == (("Hello", "Hi!"),)


def test_an_image_folder(folder: Path, tmp_path: Path):
    file = write(tmp_path / "x.jsonl", {"image": "d.png", "answer": "A cup."})
    sample = only(file, image_folder=folder / "sub")
    assert sample.images == (folder / "sub" / "d.png",)


def test_a_mark_alone_is_the_usual_question(folder: Path):
    row = {
        "image": "a.png",
        "conversations": [
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": "A cup."},
        ],
    }
    assert only(write(folder / "x.jsonl", row)).turns == ((QUESTION, "A cup."),)


def test_bad_rows_are_left_out_on_request(folder: Path):
    rows = [{"image": "a.png", "answer": "x"}, {"image": "z.png", "answer": "y"}]
    file = write(folder / "x.jsonl", *rows)
    samples, report = read_samples(file, strict=False)
    assert len(samples) == 1
    assert report.faults == (f"{file}:2: z.png: no such file",)
    assert report.summary().endswith("left out: 1 bad row")
