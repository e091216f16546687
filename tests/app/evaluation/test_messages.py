"""`eval` refuses bad inputs with one line each, and loads no model for it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.eval_sets import make_set, write_rows

GOOD = {"image": "0.png", "question": "What?", "answer": "yes"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a sound set in `set` and bad ones beside it."""
    monkeypatch.chdir(tmp_path)
    make_set(Path("set"))
    Image.new("RGB", (4, 4)).save("0.png")
    Path("empty").mkdir()
    Path("empty.jsonl").touch()
    Path("blank.csv").write_text("image,question,answer\n")
    Path("broken.jsonl").write_text('{"image": "0.png",\n')
    Path("columns.csv").write_text("a,b\n1,2\n")
    Path("broken.parquet").write_bytes(b"PAR1 but no more")
    Path("notes.txt").write_text("some notes")
    write_rows(Path("lost.jsonl"), [{**GOOD, "image": "lost.png"}])
    write_rows(Path("without.jsonl"), [{"question": "What?", "answer": "yes"}])
    write_rows(Path("unasked.jsonl"), [{"image": "0.png", "answer": "yes"}])
    write_rows(Path("unanswered.jsonl"), [{"image": "0.png", "question": "What?"}])
    write_rows(Path("twice.jsonl"), [{**GOOD, "id": "a"}, {**GOOD, "id": "a"}])
    write_rows(
        Path("letter.jsonl"), [{**GOOD, "choices": ["cat", "dog"], "answer": "C"}]
    )
    Path("latin.csv").write_bytes("image,question,answer\n0.png,Où?,là\n".encode("l1"))
    Path("page.html").write_text("<p>somebody's</p>")
    Path("other.jsonl").write_text('{"image": "0.png"}\n')
    Path("elsewhere.jsonl").write_text(
        json.dumps({"id": "x", "prompt": "?", "answer": "a", "model": "m"}) + "\n"
    )
    Path("no-adapter").mkdir()
    return tmp_path


SET = "set/questions.jsonl"
# (arguments, the beginning of the message, another part of it, exit code)
BAD = [
    (["lost-set"], "lost-set: no such file or folder; check the path", "", 1),
    (["empty"], "empty: no benchmark is recognized in it; give", "", 1),
    (["empty.jsonl"], "empty.jsonl: ", ";", 1),
    (["blank.csv"], "blank.csv: no question to ask; give a file that has some", "", 1),
    (["broken.jsonl"], "broken.jsonl:1: ", "; correct it or take it out", 1),
    (["columns.csv"], "columns.csv:1: ", "image,question,answer", 1),
    (["broken.parquet"], "", "broken.parquet", 1),
    (["notes.txt"], "notes.txt: no benchmark is recognized in it; ", "", 1),
    (["lost.jsonl"], "lost.jsonl:1: lost.png: no such file; ", "", 1),
    (["without.jsonl"], "without.jsonl:1: has no image; ", "", 1),
    (["unasked.jsonl"], "unasked.jsonl:1: the question is missing; ", "", 1),
    (["unanswered.jsonl"], "unanswered.jsonl:1: the answer is missing; ", "", 1),
    (["twice.jsonl"], "twice.jsonl:2: a second question has the id a; ", "", 1),
    (["letter.jsonl"], "letter.jsonl:1: the answer C is none of the letters", "", 1),
    (["latin.csv"], "latin.csv:2: ", "UTF-8", 1),
    ([SET, "--format", "vqa9"], "--format vqa9: unknown; use one of textvqa, ", "", 2),
    ([SET, "--format", "textvqa"], f"{SET}:2: not JSON ", "", 1),
    ([SET, "--metric", "rouge"], "--metric rouge: unknown; use one of exact, ", "", 2),
    ([SET, "--image-folder", "lost"], "lost: no such folder; check --image-", "", 1),
    ([SET, "--limit", "0"], "--limit 0: must be at least 1", "", 2),
    ([SET, "--batch", "0"], "--batch 0: must be at least 1", "", 2),
    ([SET, "--max-tokens", "0"], "max_tokens 0: ", "", 1),
    ([SET, "--resolution", "100"], "resolution 100: must be a multiple of 64", "", 1),
    ([SET, "-o", "-"], "-o -: name a .jsonl file; the table goes to standard", "", 2),
    ([SET, "-o", ""], "-o '': name a .jsonl file", "", 2),
    ([SET, "-o", "a.csv"], "-o a.csv: answers are written as JSON lines; ", "", 2),
    ([SET, "-o", "empty"], "-o empty: is a folder; name a file, such as", "", 1),
    ([SET, "-o", "other.jsonl"], "other.jsonl: exists and holds no answers; ", "", 1),
    ([SET, "-o", "no/a.jsonl"], "no/a.jsonl: no such file or directory; ", "", 1),
    ([SET, "--overwrite"], "--overwrite is for a file of answers; name it", "", 2),
    ([SET, "--page", "p.html"], "--page p.html: shows the answers that differ", "", 2),
    ([SET, "--against", ""], "--against is empty; name a model", "", 2),
    ([SET, "--against", "a.jsonl"], "--against a.jsonl: no such file; check", "", 1),
    ([SET, "--against", "other.jsonl"], "other.jsonl:1: is no answer that", "", 1),
    ([SET, "--against", "elsewhere.jsonl"], "elsewhere.jsonl: has no answer to", "", 1),
    (
        [SET, "--against", "x.mlpackage"],
        "--against x.mlpackage: no such package",
        "",
        1,
    ),
    ([SET, "--against", "speed=2"], "--against speed=2: give resolution=512, ", "", 2),
    ([SET, "--against", "resolution=x"], "--against resolution=x: give pixels", "", 2),
    ([SET, "--against", "resolution=9"], "resolution 9: must be a multiple", "", 1),
    ([SET, "--against", "tiles=2"], "", "tiles", 1),
    ([SET, "--against", "demo"], "--against demo: is what is evaluated; name", "", 2),
    ([SET, "--adapter", "no-adapter"], "no-adapter", "", 1),
    (
        [SET, "--encoder", "gpu"],
        "--encoder gpu: use auto, mlx, coreml, coreai",
        "",
        1,
    ),
    ([SET, "--compute-units", "all"], "--compute-units all: needs --encoder", "", 1),
    ([SET, "--api-key", "k"], "--api-key is for a server; name it with --url", "", 2),
    ([SET, "--url", "localhost"], "--url localhost: give an address such as", "", 1),
    (
        [SET, "--url", "http://127.0.0.1:9", "--tiles", "2x2"],
        "--tiles with --url: the server chooses that; set it there",
        "",
        2,
    ),
    (
        [SET, "--url", "http://127.0.0.1:9", "--against", "resolution=512"],
        "--against resolution=512: a server chooses that; evaluate without --url",
        "",
        2,
    ),
    (
        [SET, "--url", "http://127.0.0.1:9"],
        "http://127.0.0.1:9: no connection (",
        "",
        1,
    ),
    (
        [SET, "--against", "fit=crop", "--page", "p.txt"],
        "--page p.txt: name an .html file",
        "",
        1,
    ),
    (
        [SET, "--against", "fit=crop", "--page", "page.html"],
        "--page page.html: exists and is no page of this program; name another output",
        "",
        1,
    ),
    (
        [SET, "--against", "fit=crop", "--page", "no/p.html"],
        "--page no/p.html: cannot be written (no such folder); name another output",
        "",
        1,
    ),
]


@pytest.mark.parametrize(("arguments", "start", "part", "code"), BAD)
def test_one_line(run, folder, monkeypatch, arguments, start, part, code):
    from fastvlm_mlx import fastvlm

    def load(*given: object, **options: object):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(fastvlm, "load", load)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    shown = run("eval", "demo", *arguments)
    assert (shown.code, shown.out) == (code, ""), shown.err
    lines = [line for line in shown.err.splitlines() if "to go; none" not in line]
    lines = [line for line in lines if " questions answered in " not in line]
    (line,) = lines
    assert line.startswith(f"error: {start}") and part in line
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_an_unknown_model(run, folder):
    shown = run("eval", "nothing-like-it", SET)
    assert shown.code == 1
    assert shown.err.splitlines()[-1].startswith("error: nothing-like-it: ")


@pytest.mark.parametrize(
    ("other", "start"),
    [("nothing-like-it", "nothing-like-it: "), ("no-adapter", "no-adapter: ")],
)
def test_an_unknown_other_is_told_before_anything_is_asked(run, folder, other, start):
    shown = run("eval", "demo", SET, "-o", "a.jsonl", "--against", other)
    assert shown.code == 1
    (line,) = shown.err.splitlines()
    assert line.startswith(f"error: {start}")
    assert not Path("a.jsonl").exists()


def test_the_usage(run):
    shown = run("eval", "demo")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == "error: missing argument 'DATA' (see fastvlm-mlx eval -h)\n"
