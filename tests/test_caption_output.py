"""The output of `caption`: one line for every picture, whatever happens meanwhile."""

import csv
import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastvlm_mlx.app.caption.lines import CSV, JSONLines, Record
from fastvlm_mlx.app.caption.output import File
from tests.mock_model import picture

pytest_plugins = ["tests.caption_runs"]
PROMPT = "Describe the image."


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def names(path: Path) -> list[str]:
    return [Path(line["image"]).name for line in lines(path)]


def test_jsonl_on_standard_output(folder, run, tiny_model, tiny):
    out, err = run(folder / "2.png", folder / "1.png")
    assert [json.loads(line) for line in out.splitlines()] == [
        {
            "image": str(folder / name),
            "caption": tiny_model.ask(folder / name, PROMPT, max_tokens=6).strip(),
            "finish_reason": "length",
            "model": tiny,
            "prompt": PROMPT,
        }
        for name in ("2.png", "1.png")
    ]
    assert re.fullmatch(r"2 pictures captioned in [\d.]+ s \(.*\)\n", err)


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
    assert out == "" and err.startswith("1 of 12 pictures have captions already\n11 ")
    assert (folder / "3.txt").read_text() == "mine\n"
    texts = {path.read_text() for path in folder.glob("*.txt")}
    assert len(texts) == 12 and all(text.count("\n") == 1 for text in texts)
    quick(folder, "--format", "txt", "--overwrite")
    assert (folder / "3.txt").read_text() != "mine\n"
    assert len(list(folder.iterdir())) == 24


def test_sidecars_are_not_shared(folder, run):
    picture(0).save(folder / "3.jpg")
    _, err = run(folder, "--format", "txt", code=1)
    assert "3.jpg and" in err and "3.txt; rename one, or use -o FILE" in err


def test_a_schema(folder, run, tmp_path):
    pytest.importorskip("llguidance")
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": [{"cat": true}, {"cat": false}]}')
    options = ("--schema", schema, "--max-tokens", "40")
    out, _ = run(folder / "1.png", folder / "2.png", *options)
    captions = [json.loads(line)["caption"] for line in out.splitlines()]
    assert len(captions) == 2 and all(each["cat"] in (True, False) for each in captions)
    run(folder / "1.png", "-o", tmp_path / "a.csv", *options)
    with (tmp_path / "a.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert json.loads(row["caption"]) == captions[0]
    # Too few tokens for any JSON of this form: no caption, not half of one.
    out, err = run(folder / "1.png", *options, "--max-tokens", "2", code=1)
    assert out == "" and "error: max_tokens 2: too few" in err
    schema.write_text("{")
    _, err = run(folder, "--schema", schema, code=1)
    assert "schema.json: not JSON" in err and err.count("\n") == 1


def _all(tmp_path: Path) -> list[dict]:
    found = lines(tmp_path / "a.jsonl")
    assert len(found) == 12
    return found


def test_failures_are_told_and_tried_again(folder, quick, tmp_path):
    out = tmp_path / "a.jsonl"
    (folder / "5.png").write_bytes(b"not a picture")
    (folder / "7.png").unlink()
    (folder / "7.png").symlink_to("nowhere")
    _, err = quick(folder, "-o", out, "--batch", 4, code=1)
    shown = err.splitlines()
    assert shown[0].startswith("10 pictures captioned") and "2 failed:" in shown[0]
    assert shown[1].startswith(f"error: {folder}/5.png: not a picture")
    assert len(shown) == 3
    failed = [line["image"][-5:] for line in _all(tmp_path) if "error" in line]
    assert failed == ["5.png", "7.png"]

    picture(5).save(folder / "5.png")
    _, err = quick(folder, "-o", out, code=1)
    assert err.startswith("10 of 12 pictures have captions already\n1 picture ")
    assert names(out)[-2:] == ["5.png", "7.png"]
    assert ["error" in line for line in _all(tmp_path)] == [False] * 11 + [True]
    assert [path.name for path in tmp_path.iterdir() if path.name[0] == "."] == []


# Going on


@pytest.mark.parametrize("form", [JSONLines(), CSV()])
def test_any_torn_end_is_mended(form, tmp_path):
    """A file cut at any byte is gone on with: every whole line stays, once."""
    path, label = tmp_path / "captions", {"model": "m", "prompt": "p"}
    texts = ['a "quoted"\nline', "naïve, ☃", "", "x"]
    records = [
        Record(f"{at}.png", **label, caption=text, finish_reason="stop")
        for at, text in enumerate(texts)
    ]

    def go_on() -> bytes:
        file = File(path, form, **label, overwrite=False)
        file.begin()
        for record in records:
            if os.path.abspath(record.image) not in file.done:
                file.write(record)
        file.close()
        return path.read_bytes()

    whole = go_on()
    assert go_on() == whole
    for length in range(len(whole)):
        for rest in (b"", b"\0" * 5):
            path.write_bytes(whole[:length] + rest)
            assert go_on() == whole, (length, rest)


def test_what_is_not_ours_is_not_touched(folder, quick, tmp_path):
    for name, content in (
        ("a.jsonl", "# Notes\n"),
        ("b.jsonl", '{"name": 1}\n'),
        ("c.jsonl", "one torn line"),
        ("d.csv", "name,age\n"),
    ):
        (tmp_path / name).write_text(content)
        _, err = quick(folder, "-o", tmp_path / name, code=1)
        assert "exists and holds no captions; choose another -o" in err
        assert (tmp_path / name).read_text() == content
    quick(folder, "-o", tmp_path / "a.jsonl", "--overwrite")
    assert len(_all(tmp_path)) == 12


def test_another_question_begins_another_file(folder, quick, tmp_path):
    quick(folder, "-o", tmp_path / "a.jsonl")
    _, err = quick(folder, "-o", tmp_path / "a.jsonl", "-p", "What else?", code=1)
    assert "holds captions of prompt 'Describe the image.'; choose another -o" in err
    quick(folder, "-o", tmp_path / "a.jsonl", "-p", "What else?", "--overwrite")
    assert {line["prompt"] for line in _all(tmp_path)} == {"What else?"}


def test_damage_in_the_middle_is_refused(folder, quick, tmp_path):
    quick(folder, "-o", tmp_path / "a.jsonl")
    text = (tmp_path / "a.jsonl").read_text().replace('{"image"', "{", 3)
    (tmp_path / "a.jsonl").write_text('{"image": "x"}\n' + text)
    _, err = quick(folder, "-o", tmp_path / "a.jsonl", code=1)
    assert "error:" in err and err.count("\n") == 1
    assert (tmp_path / "a.jsonl").read_text().endswith(text)


def test_one_run_at_a_time(folder, quick, tmp_path):
    out = tmp_path / "a.jsonl"
    file = File(out, JSONLines(), model="m", prompt="p", overwrite=False)
    _, err = quick(folder, "-o", out, code=1)
    assert err == f"error: {out}: another run is writing it; wait for that one\n"
    file.close()
    assert not out.exists()  # nothing came of it
    quick(folder, "-o", out)


@pytest.mark.parametrize(
    "times", [5, pytest.param(20, marks=pytest.mark.slow)], ids=str
)
def test_killed_at_any_moment(folder, tiny, tmp_path, times):
    """However often it is killed, at the end there is one line for each picture."""
    for seed in range(13, 41):
        picture(seed).save(folder / f"{seed}.png")
    (folder / "20.png").write_bytes(b"not a picture")
    out = tmp_path / "a.jsonl"
    # Not through the shell script: its start takes longer than all the captions.
    code = "from fastvlm_mlx.app import cli; cli.main()"
    command = [sys.executable, "-c", code, "caption", str(folder), "-o", str(out)]
    command += ["-m", tiny, "--max-tokens", "4", "--batch", "2"]
    moments, kills, sizes = random.Random(6), 0, set()
    while kills < times:
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        size = out.stat().st_size if out.exists() else 0
        # Some die while they start, most soon after they have written something.
        patience = time.monotonic() + 0.3 if kills % 4 == 3 else None
        while (
            child.poll() is None and (out.stat().st_size if out.exists() else 0) == size
        ):
            if patience and time.monotonic() > patience:
                break
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.02))
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        elif len(names(out)) == 40:
            out.unlink()  # all done: from the start again
        child.wait()
        sizes.add(out.stat().st_size if out.exists() else 0)
        if out.exists() and kills % 5 == 0:
            with out.open("ab") as file:
                file.write(b'{"image": "torn')
    assert len(sizes) > times // 4
    subprocess.run(command, stderr=subprocess.DEVNULL)
    assert sorted(names(out)) == sorted(path.name for path in folder.iterdir())
    assert len(names(out)) == 40


# When it cannot be written


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
    assert "11 pictures to go; run the same command to go on" in err
    monkeypatch.undo()
    assert names(out) == ["1.png"] and JSONLines.encode is real


def test_a_place_that_cannot_be_written(folder, run, tmp_path):
    _, err = run(folder, "-o", tmp_path / "lost" / "a.jsonl", code=1)
    assert err.endswith(
        "a.jsonl: no such file or directory; choose another place with -o FILE\n"
    )
    _, err = run(folder, "-o", tmp_path, code=1)
    assert "is a directory; choose another place" in err
    _, err = run(folder, "-o", tmp_path / "a.txt", code=2)
    assert "text goes beside each picture; give --format txt and no -o" in err


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
def test_impossible_options(folder, run, options, message):
    code = 2 if options[0] in ("-p", "--batch") else 1
    _, err = run(folder, *options, code=code)
    assert message in err and err.count("\n") == 1
