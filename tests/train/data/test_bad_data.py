"""Bad data: one line that says where and what, and what to do."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastvlm_mlx.errors import DataError
from fastvlm_mlx.train.data.read import read_samples

GOOD = '{"image": "a.png", "answer": "x"}\n'


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_samples(path, **options)
    message = str(caught.value)
    print(message)
    assert "\n" not in message and message.isprintable()
    assert ";" in message, "no way out"
    return message


def chat(*turns: tuple[str, str], **values: Any) -> str:
    messages = [{"role": role, "content": text} for role, text in turns]
    return json.dumps({"messages": messages, **values})


# The second row of a JSONL file, and what is said about it.
ROWS: dict[str, tuple[str | bytes, str]] = {
    "cut off": ('{"image": "b.png", "ans', "not JSON (unterminated string"),
    "no JSON": ("hello", "not JSON (expecting value at column 1)"),
    "a list": ("[1, 2]", "holds a list, not an object"),
    "null": ("null", "holds null, not an object"),
    "deep": ("[" * 100_000, "not JSON that can be read (too deep)"),
    "long number": (
        f'{{"answer": {"1" * 5000}}}',
        "not JSON that can be read (Exceeds",
    ),
    "not UTF-8": (b'{"image": "b.png", "answer": "caf\xe9"}', "its text is not UTF-8"),
    "no image there": ('{"image": "z.png", "answer": "x"}', "z.png: no such file"),
    "a folder": ('{"image": "sub", "answer": "x"}', "sub: is a folder, not an image"),
    "folder.png": ('{"image": "g.png", "answer": "x"}', "g.png: is a folder"),
    "a pipe": ('{"image": "pipe.png", "answer": "x"}', "pipe.png: is no regular file"),
    "a link": ('{"image": "link.png", "answer": "x"}', "link.png: no such file"),
    "a circle": ('{"image": "circle.png", "answer": "x"}', "circle.png: too many lev"),
    "zero byte": ('{"image": "b\\u0000", "answer": "x"}', "b\\x00: "),
    "surrogate": ('{"image": "b\\ud800", "answer": "x"}', "b\\ud800: "),
    "long name": (json.dumps({"image": "b" * 5000, "answer": "x"}), "file name too"),
    "empty name": ('{"image": " ", "answer": "x"}', "an image has an empty name"),
    "a number": ('{"image": 7, "answer": "x"}', "the name of an image is no text"),
    "an address": ('{"image": "s3://b/c", "answer": "x"}', "s3://b/c: give a path, or"),
    "data address": (
        '{"image": "data:image/png;base64,####", "answer": "x"}',
        "a data: address is not base64",
    ),
    "no answer": ('{"image": "b.png", "label": 1}', "holds image, label; give"),
    "no names": ("{}", "holds nothing; give conversations"),
    "question of numbers": (
        '{"image": "b.png", "question": [1], "answer": "x"}',
        "its question is no text",
    ),
    "marks": (
        '{"image": "b.png", "question": "<image><image>?", "answer": "x"}',
        "2 <image> marks for 1 image",
    ),
    "fewer marks": (
        '{"images": ["b.png", "a.png"], "question": "<image>?", "answer": "x"}',
        "1 <image> mark for 2 images",
    ),
    "mark without image": (
        chat(("user", "<image> What?"), ("assistant", "x")),
        "1 <image> mark for 0 images",
    ),
    "mark in an answer": (
        chat(("user", "What?"), ("assistant", "<image>"), images=["b.png"]),
        "an answer has <image> in it",
    ),
    "no reply": (chat(("user", "What?")), "the last message must be an answer"),
    "reply first": (
        chat(("assistant", "x"), ("user", "What?")),
        "the first message must be the user's",
    ),
    "late system": (
        chat(("user", "?"), ("system", "x"), ("assistant", "x")),
        "a system message must come before",
    ),
    "no messages": ('{"messages": []}', "no question and no answer"),
    "no list": ('{"messages": "hello"}', "its messages are no list of objects"),
    "a tool": (chat(("user", "?"), ("tool", "x")), "a message is from 'tool', not"),
    "no role": ('{"conversations": [{"value": "x"}]}', "a message is from 'None'"),
    "value": ('{"conversations": [{"from": "human", "value": 1}]}', "is no text"),
    "video": (
        '{"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}',
        "a part is of type 'video_url'",
    ),
    "image of the assistant": (
        '{"messages": [{"role": "assistant", "content": "x", "images": ["b.png"]}]}',
        "an image is in a message of the assistant",
    ),
    "weight": (
        '{"messages": [{"role": "user", "content": "?", "weight": 0}]}',
        "a message has a weight",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows(name: str, folder: Path):
    (folder / "g.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("nowhere")
    (folder / "circle.png").symlink_to("circle.png")
    row, wanted = ROWS[name]
    row = row.encode() if isinstance(row, str) else row
    file = folder / "data.jsonl"
    file.write_bytes(GOOD.encode() + row + b"\n" + GOOD.encode())
    message = refused(folder)
    assert message.startswith(f"{file}:2: ") and wanted in message
    # The same row in a list.
    if row[:1] == b"{" and name not in ("cut off", "long number"):
        file.rename(folder / "data.json")
        listed = b"[\n" + GOOD.strip().encode() + b",\n" + row + b"\n]"
        (folder / "data.json").write_bytes(listed)
        message = refused(folder)
        assert message.startswith(f"{folder / 'data.json'}:3: ") and wanted in message


def test_the_first_are_named_and_the_rest_counted(folder: Path):
    file = folder / "x.jsonl"
    file.write_text(
        GOOD + "".join(f'{{"image": "{n}", "answer": "x"}}\n' for n in "pqrst")
    )
    assert refused(file) == (
        f"5 bad rows: {file}:2: p: no such file; {file}:3: q: no such file;"
        f" {file}:4: r: no such file; and 2 more; correct them or take them out"
    )


TABLES: dict[str, tuple[str | bytes, str]] = {
    "no columns": ("a.png,A cup.\n", "captions.csv:1: the first line (a.png,A cup.) d"),
    "no image column": (
        "question,answer\nx,y\n",
        "does not name the columns; begin",
    ),
    "two columns": ("file,text,text\na.png,x,y\n", "1: two columns are called text"),
    "a comma": (
        "file,text\nb.png,x\na.png,A cup, of tea\n",
        'captions.csv:3: 3 fields for 2 columns (put "quotes" around',
    ),
    "a field short": ("file,question,text\na.png,x\n", "2: 2 fields for 3 columns;"),
    "open quote": (
        'file,text\nb.png,y\na.png,"A cup\nb.png,x\n',
        "captions.csv:3: a quotation mark opens a field and none closes it",
    ),
    "text after a quote": ('file,text\na.png,"x"y\n', "2: not a row of a table"),
    "no image named": ("file,text\n,x\n", "captions.csv:2: no image is named"),
    "missing after CRs": ("file,text\ra.png,x\rz.png,y\r", "csv:3: z.png: no such f"),
    "not UTF-8": (b"file,text\na.png,caf\xe9\n", "csv:2: its text is not UTF-8"),
    "UTF-16": ("file,text\na.png,x\n".encode("utf-16"), "is UTF-16 text; save it as"),
    "empty": ("", "captions.csv: is empty; give a file with rows"),
    "blank": ("\ufeff \n\n", "captions.csv: is empty; give a file with rows"),
    "columns alone": ("file,text\n", "captions.csv: nothing to learn from (no rows);"),
    "empty answers": ("file,text\na.png,\nb.png, \n", "from (2 empty answers); give"),
    "failed": ("image,caption,error\na.png,,bad\n", "from (1 failed caption); give"),
    "a pointer": (
        "version https://git-lfs.github.com/spec/v1\n",
        "is a git-lfs pointer",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, folder: Path):
    text, wanted = TABLES[name]
    file = folder / "captions.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    assert wanted in refused(file)


def _empty(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        file.unlink()


def _two_files(folder: Path) -> None:
    (folder / "train.jsonl").write_text(GOOD)
    (folder / "valid.jsonl").write_text(GOOD)


def _both(folder: Path) -> None:
    (folder / "data.jsonl").write_text(GOOD)
    (folder / "a.txt").write_text("A cup.")


def _latin(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"one\ncaf\xe9")


def _wide(folder: Path) -> None:
    (folder / "a.txt").write_bytes("A cup.".encode("utf-16-le"))


def _blank(folder: Path) -> None:
    (folder / "a.txt").write_text(" \n")


def _foreign(folder: Path) -> None:
    _empty(folder)
    (folder / "a.jxl").write_bytes(b"x")
    (folder / "a.txt").write_text("A cup.")


def _list(text: str) -> Callable[[Path], None]:
    def prepare(folder: Path) -> None:
        (folder / "data.json").write_text(text)

    return prepare


def _text_only(folder: Path) -> None:
    (folder / "x.jsonl").write_text('{"question": "Hello", "answer": "Hi!"}\n')


FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no pairs": (lambda folder: None, "no image has a .txt of its name beside it"),
    "counted": (lambda folder: None, "(4 images have no .txt: "),
    "empty": (_empty, "and there is no data file (no images); give captions.csv or"),
    "foreign": (_foreign, "(1 image is of a kind that is not opened: "),
    "two files": (
        _two_files,
        "data files (train.jsonl, valid.jsonl); name one, s",
    ),
    "both": (_both, "holds data.jsonl and also 1 image with a .txt; name the data"),
    "latin-1": (_latin, "a.txt:2: not UTF-8; save the file as UTF-8"),
    "UTF-16": (_wide, "a.txt:1: not UTF-8; save the file as UTF-8"),
    "blank": (_blank, "nothing to learn from (1 empty answer); give images with"),
    "list without end": (
        _list('[{"image": "a.png", "answer": "x"}'),
        "json:1: not JSON",
    ),
    "list without comma": (
        _list(f"[{GOOD}{GOOD}]"),
        "data.json:2: not JSON (the list goes on without a comma)",
    ),
    "after the list": (
        _list('[{"image": "a.png", "answer": "x"}]\n\n{"image": "b.png"}'),
        "data.json:3: not JSON (the file goes on after its list)",
    ),
    "list of texts": (_list('["a"]'), "data.json:1: holds a text, not an object"),
    "empty list": (_list("[]"), "nothing to learn from (no rows); give images with"),
    "text only": (_text_only, "none of 1 sample has an image; name each row's image"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str, folder: Path):
    prepare, wanted = FOLDERS[name]
    prepare(folder)
    assert wanted in refused(folder)


def test_paths(folder: Path):
    assert "none: no such file or directory; check the path" in refused(folder / "none")
    assert "a.png: no data to learn from; give a folder" in refused(folder / "a.png")
    assert "~no-such-user: no such file" in refused(Path("~no-such-user"))


def test_too_large_files(folder: Path, monkeypatch):
    monkeypatch.setattr("fastvlm_mlx.data.located.LARGEST", 1000)
    monkeypatch.setattr("fastvlm_mlx.data.located.LARGEST_STREAM", 2000)
    (folder / "x.jsonl").write_text(GOOD * 100)
    assert "x.jsonl: more than 1.0 kB; split it" in refused(folder / "x.jsonl")
    (folder / "x.jsonl").write_text(GOOD.ljust(1000))
    assert read_samples(folder / "x.jsonl")[1].samples == 1
    assert "/dev/zero: more than 2.0 kB; split it" in refused(Path("/dev/zero"))
    assert "/dev/null: is empty; give a file with rows" in refused(Path("/dev/null"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_closed_places(folder: Path):
    (folder / "x.jsonl").write_text(GOOD)
    (folder / "x.jsonl").chmod(0)
    assert "permission denied; check" in refused(folder / "x.jsonl")


def test_the_lines_of_files_name_what_is_printable(folder: Path):
    (folder / "x.jsonl").write_text('{"image": "\\u001b[31mz\\nq", "answer": "x"}\n')
    assert "x.jsonl:1: " in refused(folder)
