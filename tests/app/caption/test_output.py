"""The output of `caption`: every form of it, and places that cannot take it."""

import csv
import errno
import json
import os
import re

import pytest

from fastvlm_mlx.app.caption.output import File
from fastvlm_mlx.app.caption.records import JSONLines
from tests.support.caption_lines import lines, names
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]
PROMPT = "Describe the image."


def test_jsonl_on_standard_output(folder, caption, tiny_model, tiny):
    out, err = caption(folder / "2.png", folder / "1.png")
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "image": str(folder / name),
            "caption": tiny_model.ask(PROMPT, folder / name, max_tokens=6).strip(),
            "finish_reason": "length",
            "model": tiny,
            "prompt": PROMPT,
        }
        for name in ("2.png", "1.png")
    ]
    assert re.fullmatch(r"2 images captioned in [\d.]+ s \(.*\)\n", err)


def test_csv_holds_what_jsonl_holds(folder, quick, tmp_path):
    quick(folder, "-o", tmp_path / "a.csv")
    quick(folder, "-o", tmp_path / "a.jsonl")
    with (tmp_path / "a.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [{k: v for k, v in row.items() if v} for row in table] == [
        {k: v for k, v in line.items() if v} for line in lines(tmp_path / "a.jsonl")
    ]
    assert names(tmp_path / "a.jsonl") == [f"{seed}.png" for seed in range(1, 13)]


def test_sidecars(folder, quick):
    (folder / "3.txt").write_text("mine\n")
    out, err = quick(folder, "--format", "txt")
    assert out == "" and err.startswith("1 of 12 images have captions already\n11 ")
    assert (folder / "3.txt").read_text() == "mine\n"
    texts = {path.read_text() for path in folder.glob("*.txt")}
    assert len(texts) == 12 and all(text.count("\n") == 1 for text in texts)
    quick(folder, "--format", "txt", "--overwrite")
    assert (folder / "3.txt").read_text() != "mine\n"
    assert len(list(folder.iterdir())) == 24


def test_sidecars_are_not_shared(folder, caption):
    make_image(0).save(folder / "3.jpg")
    _, err = caption(folder, "--format", "txt", code=1)
    assert "3.jpg and" in err and "3.txt; rename one, or use -o FILE" in err


def test_a_schema(folder, caption, tmp_path):
    pytest.importorskip("llguidance")
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": [{"cat": true}, {"cat": false}]}')
    options = ("--schema", schema, "--max-tokens", "40")
    out, _ = caption(folder / "1.png", folder / "2.png", *options)
    captions = [json.loads(line)["caption"] for line in out.splitlines()]
    assert len(captions) == 2 and all(each["cat"] in (True, False) for each in captions)
    caption(folder / "1.png", "-o", tmp_path / "a.csv", *options)
    with (tmp_path / "a.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert json.loads(row["caption"]) == captions[0]
    # Too few tokens for any JSON of this form: no caption, not half of one.
    out, err = caption(folder / "1.png", *options, "--max-tokens", "2", code=1)
    assert out == "" and "error: max_tokens 2: too few" in err
    schema.write_text("{")
    _, err = caption(folder, "--schema", schema, code=1)
    assert "schema.json: not JSON" in err and err.count("\n") == 1


def test_failures_are_told_and_tried_again(folder, quick, tmp_path):
    out = tmp_path / "a.jsonl"
    (folder / "5.png").write_bytes(b"not an image")
    (folder / "7.png").unlink()
    (folder / "7.png").symlink_to("nowhere")
    _, err = quick(folder, "-o", out, "--batch", 4, code=1)
    shown = err.splitlines()
    assert shown[0].startswith("10 images captioned") and "2 failed:" in shown[0]
    assert shown[1].startswith(f"error: {folder}/5.png: not an image")
    assert len(shown) == 3
    failed = [line["image"][-5:] for line in lines(out) if "error" in line]
    assert len(lines(out)) == 12
    assert failed == ["5.png", "7.png"]

    make_image(5).save(folder / "5.png")
    _, err = quick(folder, "-o", out, code=1)
    assert err.startswith("10 of 12 images have captions already\n1 image ")
    assert names(out)[-2:] == ["5.png", "7.png"]
    assert ["error" in line for line in lines(out)] == [False] * 11 + [True]
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


def test_a_full_disk_is_one_line(folder, quick, tmp_path, monkeypatch):
    """The file ends with a whole line, and the message says how to go on."""
    real, out = JSONLines.encode, tmp_path / "a.jsonl"
    quick(folder / "1.png", "-o", out)

    def full(self: object, line: object) -> int:
        os.write(file_of[0], bytes(memoryview(line))[:10])  # type: ignore
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    file_of: list[int] = []

    class Disk:
        def __init__(self, file: object):
            self.file = file

        def __getattr__(self, name: str):
            return getattr(self.file, name)

        write = full

    begin = File.begin

    def begun(self: File):
        begin(self)
        file_of.append(self._file.fileno())
        self._file = Disk(self._file)  # type: ignore

    monkeypatch.setattr(File, "begin", begun)
    _, err = quick(folder, "-o", out, code=1)
    assert f"error: {out}: no space left on device; free some space" in err
    assert "11 images to go; run the same command to go on" in err
    monkeypatch.undo()
    assert names(out) == ["1.png"] and JSONLines.encode is real


def test_a_place_that_cannot_be_written(folder, caption, tmp_path):
    _, err = caption(folder, "-o", tmp_path / "lost" / "a.jsonl", code=1)
    assert err.endswith(
        "a.jsonl: no such file or directory; choose another place with -o FILE\n"
    )
    _, err = caption(folder, "-o", tmp_path, code=1)
    assert "is a directory; choose another place" in err
    _, err = caption(folder, "-o", tmp_path / "a.txt", code=2)
    assert "text goes beside each image; give --format txt and no -o" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-p", " "), "'-p' is empty"),
        (("--batch", 0), "--batch 0: must be at least 1"),
        (("--tiles", "x"), "tiles 'x'"),
        (("--resolution", 100), "resolution 100"),
        (("--temperature", -1), "temperature -1"),
        (("--schema", "lost.json"), "lost.json"),
    ],
)
def test_impossible_options(folder, caption, options, message):
    code = 2 if options[0] in ("-p", "--batch") else 1
    _, err = caption(folder, *options, code=code)
    assert message in err and err.count("\n") == 1
