"""Lines of JSON and CSV: any name, any caption, and files that are damaged."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fastvlm_mlx.app.caption.output import File
from fastvlm_mlx.app.caption.records import CSV, JSONLines, Record
from fastvlm_mlx.errors import OptionError
from tests.support.caption_lines import lines
from tests.support.mock_model import make_image

pytest_plugins = ["tests.support.caption_runs"]
LABEL = {"model": "m", "prompt": "p"}
FORMS = [JSONLines(), CSV(), CSV("\t")]
TEXTS = [
    "a\rb",
    "a\nb",
    "a\r\nb\r",
    'say "hi"',
    '"',
    "a,b\tc",
    " x ",
    "naïve ☃",
    "#",
    "",
]


def kept(path: Path, form: JSONLines | CSV, **label: str) -> File:
    return File(path, form, **{**LABEL, **label}, overwrite=False)


@pytest.mark.parametrize("form", FORMS, ids=["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("text", [*TEXTS, "\udcff.png", "x" * 200_000], ids=repr)
def test_any_text_is_read_again(form, text, tmp_path):
    """As a name, a caption, a prompt and a model; csv's own limit is 131,072."""
    label = {"model": text.replace("\udcff", ""), "prompt": text}
    record = Record(text, **label, caption=text, finish_reason="stop")
    if "\udcff" in text:
        record = Record(text, **label, caption="x", finish_reason="stop")
    decoded = form.decode(form.encode(record))
    assert {k: v for k, v in decoded.items() if v} == {
        k: v for k, v in record.fields().items() if v
    }
    path = tmp_path / "captions"
    file = kept(path, form, **label)
    file.begin()
    file.write(record)
    file.close()
    file = kept(path, form, **label)
    file.close()
    assert file.done == {os.path.abspath(text)}
    assert csv.field_size_limit() == 131_072


def test_what_a_table_cannot_hold_is_replaced():
    line = CSV().encode(Record("a.png", **LABEL, caption="a\0b"))
    assert b"\0" not in line and CSV().decode(line)["caption"] == "a\ufffdb"
    line = CSV().encode(Record("a.png", **LABEL, caption={"a": "\ud800"}))
    assert CSV().decode(line)["caption"] == '{"a": "?"}'


@pytest.mark.parametrize("name", ["a\rb.png", 'a"\n,b.png', b"\xff\xe9.png"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_names_of_files_are_found_again(folder, quick, tmp_path, name, suffix):
    try:
        os.rename(
            folder / "1.png", os.path.join(os.fsencode(folder), os.fsencode(name))
        )
    except OSError:
        pytest.skip("this disk has no such names")
    out = tmp_path / f"a.{suffix}"
    quick(folder, "-o", out)
    size = out.stat().st_size
    _, err = quick(folder, "-o", out)
    assert err == "12 of 12 images have captions already\n"
    assert out.stat().st_size == size


@pytest.mark.parametrize(
    "line",
    [b'1.png,"x"y,stop,,m,p', b"1.png,x,stop", b"1.png,x\ry,stop,,m,p", b"[" * 99999],
    ids=["quote", "columns", "return", "depth"],
)
@pytest.mark.parametrize("form", [CSV(), JSONLines()], ids=["csv", "jsonl"])
def test_a_damaged_line_is_an_error_of_one_line(form, line, tmp_path):
    path = tmp_path / "a"
    good = form.encode(Record("a.png", **LABEL, caption="x", finish_reason="stop"))
    content = form.header + good + line + b"\n" + good
    path.write_bytes(content)
    with pytest.raises(OptionError, match="no caption at byte .*; mend the file, or"):
        kept(path, form)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    [b"[]", b'"image"', b"5", b"null", b"{}", b'{"image": 5}', b'{"image": null}'],
)
def test_json_that_is_no_line_of_captions(line):
    with pytest.raises(ValueError, match="^no image$"):
        JSONLines().decode(line)
    assert JSONLines().decode(b'{"image": ""}') == {"image": ""}


def test_captions_after_a_lost_quote_are_not_cut_off(tmp_path):
    """All of them look like one line that a crash has cut: they are refused instead."""
    form, path = CSV(), tmp_path / "a.csv"
    records = [
        Record(f"{at}.png", **LABEL, caption=f"No. {at}, a cat", finish_reason="stop")
        for at in range(5)
    ]
    table = [form.encode(record) for record in records]
    content = form.header + table[0] + table[1].replace(b'"', b"", 1)
    content += b"".join(table[2:])
    path.write_bytes(content)
    with pytest.raises(OptionError, match="no caption at byte"):
        kept(path, form)
    assert path.read_bytes() == content


@pytest.mark.parametrize("form", FORMS, ids=["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("save", ["no last line break", "byte order mark", "returns"])
def test_what_editors_and_spreadsheets_save_goes_on(form, save, tmp_path):
    """No caption is made anew: it may have been mended by hand."""
    records = [
        Record(f"{at}.png", **LABEL, caption=f"No. {at}", finish_reason="stop")
        for at in range(3)
    ]
    records.insert(1, Record("bad.png", **LABEL, error="bad"))
    content = form.header + b"".join(map(form.encode, records))
    if save == "no last line break":
        content = content[:-1]
    elif save == "byte order mark":
        content = b"\xef\xbb\xbf" + content
    else:
        content = content.replace(b"\n", b"\r\n")
    path = tmp_path / "a"
    path.write_bytes(content)
    file = kept(path, form)
    assert file.done == {os.path.abspath(f"{at}.png") for at in range(3)}
    file.begin()
    file.write(Record("new.png", **LABEL, caption="x", finish_reason="stop"))
    file.close()
    again = kept(path, form)
    again.close()
    assert again.done == file.done | {os.path.abspath("new.png")}
    assert b"bad" not in path.read_bytes()


def test_a_single_line_without_its_break(tmp_path):
    form, path = JSONLines(), tmp_path / "a"
    line = form.encode(Record("a.png", **LABEL, caption="x", finish_reason="stop"))
    path.write_bytes(line[:-1])
    file = kept(path, form)
    assert file.done == {os.path.abspath("a.png")}
    file.begin()
    file.close()
    assert path.read_bytes() == line


def test_other_columns_are_named(folder, quick, tmp_path):
    out = tmp_path / "a.csv"
    out.write_text("image,caption,stars\na.png,A cat.,5\n")
    _, err = quick(folder, "-o", out, code=1)
    assert err.startswith(f"error: {out}: has other columns than captions have; choose")


def test_random_damage_has_no_other_error(tmp_path):
    """Bytes changed, lost and doubled: the file is gone on with, or refused."""
    moments, refused = random.Random(3), 0
    texts = ['A "cat"\non a chair', "plain", "a, b"]
    records = [
        Record(f"{at}.png", **LABEL, caption=text) for at, text in enumerate(texts)
    ]
    records.append(Record("9.png", **LABEL, error="no, bad"))
    for at in range(600):
        form = FORMS[at % 3]
        content = bytearray(form.header + b"".join(map(form.encode, records)))
        for _ in range(moments.randint(1, 3)):
            place = moments.randrange(len(content))
            end = place + moments.choice([0, 1, 1, 9])
            content[place:end] = moments.choice([b"", b'"', b"\0", b"\xff", b"\r\n"])
        path = tmp_path / "a"
        path.write_bytes(content)
        try:
            file = kept(path, form)
        except OptionError as error:
            refused += 1
            assert "\n" not in str(error)
            assert path.read_bytes() == content
            continue
        file.begin()
        file.write(records[0])
        file.close()
        again = kept(path, form)
        again.close()
        assert file.done <= again.done
    assert 100 < refused < 590


def test_a_long_damaged_table_is_read_in_no_time(tmp_path):
    form, path = CSV(), tmp_path / "a.csv"
    line = form.encode(Record("a.png", model="x", prompt="y", caption="x" * 200))
    path.write_bytes(form.header + b'"' + line * 50_000)
    kept(path, form).close()  # quadratic, it would take minutes


def test_json_on_any_standard_output_is_json(folder, tiny):
    """Names stay: what a locale has no letters for is escaped, or UTF-8 in a table."""
    name = "bücher-猫.png"
    make_image(1).save(folder / name)
    code = "from fastvlm_mlx.app import cli; cli.main()"
    command = [sys.executable, "-c", code, "caption", str(folder / name), "-m", tiny]
    command += ["--max-tokens", "2"]
    for encoding in ("ascii", "latin-1"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        shown = subprocess.run(command, stdout=subprocess.PIPE, env=environment)
        assert shown.stdout.isascii()
        assert Path(json.loads(shown.stdout)["image"]).name == name
    table = subprocess.run(
        [*command, "--format", "csv"], stdout=subprocess.PIPE, env=environment
    )
    assert name in table.stdout.decode("utf-8")


def test_the_suffix_says_the_form(folder, quick, tmp_path):
    quick(folder, "-o", tmp_path / "a.TSV")
    table = (tmp_path / "a.TSV").read_text().splitlines()
    assert table[0] == "image\tcaption\tfinish_reason\terror\tmodel\tprompt"
    assert len(list(csv.reader(table, delimiter="\t"))) == 13
    out, _ = quick(folder / "1.png", "--format", "tsv")
    assert out.startswith("image\tcaption\t") and out.count("\n") == 2
    quick(folder, "-o", tmp_path / "a.ndjson")
    quick(folder, "-o", tmp_path / "plain")
    quick(folder, "-o", tmp_path / "b.json", "--format", "jsonl")
    for name in ("a.ndjson", "plain", "b.json"):
        assert len(lines(tmp_path / name)) == 12


@pytest.mark.parametrize("name", ["a.json", "a.JSON", "a.xlsx", "a.jsonl.gz", "a.png"])
def test_a_suffix_of_another_form_is_refused(folder, quick, tmp_path, name):
    _, err = quick(folder, "-o", tmp_path / name, code=2)
    stem = str(tmp_path / "a")
    assert err.startswith(f"error: -o {tmp_path / name}: captions are written as ")
    assert f"; name it {stem}.jsonl, or add --format jsonl" in err
    assert not (tmp_path / name).exists()
