"""`caption` goes on with a file, however the run before ended: no image twice."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from fastvlm_mlx.app.caption.output import File
from fastvlm_mlx.app.caption.records import CSV, JSONLines, Record
from tests.support.caption_lines import lines, names
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]


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
        _, err = quick(folder, "-o", tmp_path / name, "--overwrite", code=1)
        assert "exists and holds no captions; choose another -o, or delete" in err
        assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "content",
    [
        '{"image": "a.png", "caption": "Mine."}\n',
        '{"image": "a.png", "caption": "Mine."}',
        '{"image": "a.png", "caption": "Mine.", "model": 1, "prompt": "p"}\n',
        "image,caption\na.png,Mine.\n",
        "image,caption\n",
        "image\tcaption\na.png\tMine.\n",
    ],
)
def test_overwrite_keeps_captions_of_others(folder, quick, tmp_path, form, content):
    """A data set written by hand has an image and a caption too."""
    out = tmp_path / "data"
    out.write_text(content)
    _, err = quick(folder, "-o", out, "--overwrite", "--format", form, code=1)
    assert err.startswith(f"error: {out}: exists and holds no captions; choose another")
    assert out.read_text() == content


@pytest.mark.parametrize("content", ["", '{"image": "torn', "image,cap", "\0\0"])
def test_overwrite_replaces_captions_of_any_form(folder, quick, tmp_path, content):
    out = tmp_path / "a.jsonl"
    out.write_text(content)
    quick(folder, "-o", out, "--overwrite")
    assert len(lines(out)) == 12
    quick(folder, "-o", out, "--overwrite", "--format", "csv")
    assert out.read_text().startswith("image,caption,")
    quick(folder, "-o", out, "--overwrite")
    assert len(lines(out)) == 12


def test_another_question_begins_another_file(folder, quick, tmp_path):
    quick(folder, "-o", tmp_path / "a.jsonl")
    _, err = quick(folder, "-o", tmp_path / "a.jsonl", "-p", "What else?", code=1)
    assert "holds captions of prompt 'Describe the image.'; choose another -o" in err
    quick(folder, "-o", tmp_path / "a.jsonl", "-p", "What else?", "--overwrite")
    prompts = [line["prompt"] for line in lines(tmp_path / "a.jsonl")]
    assert prompts == ["What else?"] * 12


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_other_names_of_the_model_go_on(
    folder, quick, tmp_path, monkeypatch, tiny, form
):
    """`-m path/` is `-m path`, and so are relative paths and the short names."""
    out = tmp_path / f"a.{form}"
    monkeypatch.setenv("HOME", os.path.dirname(tiny))
    monkeypatch.chdir(os.path.dirname(tiny))
    name = os.path.basename(tiny)
    quick(folder, "-o", out, "-m", tiny)
    size = out.stat().st_size
    for other in (f"{tiny}/", name, f"./{name}/", f"~/{name}"):
        _, err = quick(folder, "-o", out, "-m", other)
        assert err == "12 of 12 images have captions already\n"
    assert out.stat().st_size == size
    _, err = quick(folder, "-o", out, "-m", "demo", code=1)
    assert f"holds captions of model '{tiny}'; choose another -o" in err

    for one, other in (("0.5b", "apple/FastVLM-0.5B"), ("0.5B", "0.5b")):
        path = tmp_path / f"{one}.jsonl"
        for model in (one, other):
            file = File(path, JSONLines(), model=model, prompt="p", overwrite=False)
            if not file.done:
                file.begin()
                file.write(Record("a.png", model, "p", caption="x"))
            file.close()
        assert len(lines(path)) == 1


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
    """However often it is killed, at the end there is one line for each image."""
    for seed in range(13, 41):
        make_image(seed).save(folder / f"{seed}.png")
    (folder / "20.png").write_bytes(b"not an image")
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
